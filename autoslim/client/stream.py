"""Server-sent events, read as they come and gone on with after a lost connection. The network is the clients'."""

from __future__ import annotations

import datetime
import json

import httpx

from autoslim.client import calls
from autoslim.client.calls import Call
from autoslim.client.errors import ServiceError, UnexpectedReplyError
from autoslim.client.replies import ENDED, Event
from autoslim.client.retry import Attempts

READ_TIMEOUT = 45.0
"""Seconds without a byte. The service sends a comment every 15."""

PATIENCE = 12
"""Tries in a row to reach the service again, some five minutes of them."""

_LONGEST_LINE = 2**20


class Feed:
    """The events of one job. `call` begins (again) where the last event was; `feed` takes the lines of an answer."""

    def __init__(self, job_id: str, *, after: int = 0, patience: int = PATIENCE) -> None:
        self.ended = False
        self._job_id, self._after, self._patience = job_id, after, patience
        self._attempts = Attempts(patience)
        self._fields: dict[str, list[str]] = {}

    def call(self) -> Call[None]:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self._after:
            headers["Last-Event-ID"] = str(self._after)
        self._fields = {}
        path = calls.job(self._job_id).path + "/events"
        return Call(method="GET", path=path, read=_check_stream, headers=headers)

    def feed(self, line: str) -> Event | None:
        """One line of the answer; an empty one ends an event. An event that was seen already is left out."""
        if len(line) > _LONGEST_LINE:
            raise UnexpectedReplyError(f"an event of more than {_LONGEST_LINE} characters", code="unexpected")
        if line:
            name, _, value = line.partition(":")
            if name:
                self._fields.setdefault(name, []).append(value.removeprefix(" "))
            return None
        fields, self._fields = self._fields, {}
        event = _event(fields)
        if event is None or event.seq <= self._after:
            return None
        self._after, self._attempts = event.seq, Attempts(self._patience)
        self.ended = event.type == "state" and event.data.get("state") in ENDED
        return event

    def lost(self, error: httpx.TransportError | ServiceError | None) -> float:
        """Seconds to wait before the next `call`; raises when it is to be given up. None: the answer ended before the job did."""
        return self._attempts.after(error or httpx.RemoteProtocolError("the stream of events ended before the job did"))


def _check_stream(response: httpx.Response) -> None:
    # 204: the job has ended and there is nothing more to be seen.
    if response.status_code != httpx.codes.NO_CONTENT and not response.headers.get("Content-Type", "").startswith(
        "text/event-stream"
    ):
        raise UnexpectedReplyError(f"{response.url} did not answer with events", status=response.status_code)


def _event(fields: dict[str, list[str]]) -> Event | None:
    """None for a comment, or for what has no number to go on from."""
    seq = (fields.get("id") or [""])[-1]
    if "data" not in fields or not seq.isdigit():
        return None
    try:
        data = json.loads("\n".join(fields["data"]))
    except json.JSONDecodeError as error:
        raise UnexpectedReplyError(f"event {seq} is not JSON", code="unexpected") from error
    if not isinstance(data, dict):
        raise UnexpectedReplyError(f"event {seq} is no object", code="unexpected")
    kind, at = (fields.get("event") or ["message"])[-1], data.pop("at", None)
    return Event(seq=int(seq), type=kind, at=datetime.datetime.fromisoformat(at) if isinstance(at, str) else None, data=data)
