"""Server-sent events (the WHATWG's `text/event-stream`) of one job, resumed after a lost connection. Does no input or output.

httpx-sse reads such streams, too, but it buffers lines and events of any size: a server that never ends a line fills the client's memory.
Here an event has a maximum size, which is checked while it arrives.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator

import httpx

from autoslim.client import calls
from autoslim.client.calls import Call
from autoslim.client.errors import ServiceError, UnexpectedReplyError
from autoslim.client.replies import ENDED, Event
from autoslim.client.retry import Backoff

READ_TIMEOUT = 45.0
"""Seconds without a byte. The service sends a comment every 15, so that three are missing by then."""

MAX_TRIES = 12
"""Tries in a row to reconnect: about five minutes, enough for a restart of the service."""

# Characters of an event, all its fields together. The service's own events have a few hundred.
_MAX_EVENT = 2**20
_LINE_END = re.compile(r"\r\n|\n|\r")


class EventSource:
    """The events of one job. Send `call`, and give the response's text to `feed`; again after `reconnect_delay`."""

    def __init__(self, job_id: str, *, after: int = 0, max_tries: int = MAX_TRIES) -> None:
        self.ended = False
        self._job_id, self._after, self._max_tries = job_id, after, max_tries
        self._backoff = Backoff(max_tries)
        # Of the event that is being received: its fields, the line that has not ended, and the characters of both.
        self._fields: dict[str, list[str]] = {}
        self._rest, self._size, self._ended_in_cr = "", 0, False

    def call(self) -> Call[None]:
        """The request for the events after the last one that was received."""
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self._after:
            headers["Last-Event-ID"] = str(self._after)
        # What arrived of an event before the connection was lost is sent again.
        self._fields, self._rest, self._size, self._ended_in_cr = {}, "", 0, False
        return Call(method="GET", path=calls.job(self._job_id).path + "/events", read=_check_stream, headers=headers)

    def feed(self, text: str) -> Iterator[Event]:
        """The events that end in this chunk of the response, without those that were received before.

        Raises:
            UnexpectedReplyError: for an event that is too large, or is not a JSON object.
        """
        # A CR LF that is cut in two by the chunks is one end of a line.
        text = text.removeprefix("\n") if self._ended_in_cr else text
        self._ended_in_cr = text.endswith("\r")
        *lines, self._rest = _LINE_END.split(self._rest + text)
        for line in lines:
            self._size += len(line)
            self._check_size()
            if line:
                name, _, value = line.partition(":")
                # A line that starts with a colon is a comment, which keeps the connection alive.
                if name:
                    self._fields.setdefault(name, []).append(value.removeprefix(" "))
            elif (event := self._end_event()) is not None:
                yield event
        self._check_size()

    def reconnect_delay(self, error: httpx.TransportError | ServiceError | None) -> float:
        """Seconds to wait before the next `call`. None: the response ended before the job did.

        Raises:
            ServiceError: where no try is left, or another one would not help.
        """
        return self._backoff.next_delay(error or httpx.RemoteProtocolError("the stream of events ended before the job did"))

    def _check_size(self) -> None:
        if self._size + len(self._rest) > _MAX_EVENT:
            raise UnexpectedReplyError(f"an event of more than {_MAX_EVENT} characters", code="unexpected")

    def _end_event(self) -> Event | None:
        fields, self._fields, self._size = self._fields, {}, 0
        event = _parse_event(fields)
        # A service that resumes earlier than asked must not repeat events.
        if event is None or event.seq <= self._after:
            return None
        # An event is progress: the tries are counted anew.
        self._after, self._backoff = event.seq, Backoff(self._max_tries)
        self.ended = event.type == "state" and event.data.get("state") in ENDED
        return event


def _check_stream(response: httpx.Response) -> None:
    # 204: the job has ended and the client has all its events.
    if response.status_code != httpx.codes.NO_CONTENT and not response.headers.get("Content-Type", "").startswith(
        "text/event-stream"
    ):
        raise UnexpectedReplyError(f"{response.url} did not answer with events", status=response.status_code)


def _parse_event(fields: dict[str, list[str]]) -> Event | None:
    """None for a comment, and for an event without a number to resume after."""
    seq = (fields.get("id") or [""])[-1]
    if "data" not in fields or not seq.isdigit():
        return None
    try:
        data = json.loads("\n".join(fields["data"]))
    except json.JSONDecodeError as error:
        raise UnexpectedReplyError(f"event {seq} is not JSON", code="unexpected") from error
    if not isinstance(data, dict):
        raise UnexpectedReplyError(f"event {seq} is not a JSON object", code="unexpected")
    kind, at = (fields.get("event") or ["message"])[-1], data.pop("at", None)
    return Event(seq=int(seq), type=kind, at=datetime.datetime.fromisoformat(at) if isinstance(at, str) else None, data=data)
