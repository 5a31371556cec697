"""`Outbox`: messages that wait for delivery, in a file, and the thread that delivers them with growing pauses.

Whoever puts a message waits for a write to the disk, never for a receiver. What a killed process leaves is delivered by the next one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from autoslim.core.files import write_atomically
from autoslim.core.record import Record
from autoslim.errors import RequestError, UnavailableError
from autoslim.webhook.addresses import AllowedHosts
from autoslim.webhook.message import Message
from autoslim.webhook.post import post

_log = logging.getLogger(__name__)

MOST_PENDING = 1000
"""Messages that wait at most: the file is written anew with every change."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retries:
    """Seconds from a host's failure to its next try; they double from `first` to `longest`. With these tries it is about five hours."""

    first: float = 1.0
    longest: float = 3600.0
    tries: int = 16

    def delay(self, failures: int) -> float:
        """Varied by half: hosts that failed together are not tried together."""
        return min(self.first * 2.0 ** (failures - 1), self.longest) * (0.5 + random.random())  # noqa: S311 - no secret


@dataclasses.dataclass(frozen=True, kw_only=True)
class Waiting(Record):
    """The file. `cursor` is the last event that was made into messages, `delivered` are ids of messages that are not sent again."""

    cursor: int = 0
    pending: tuple[Message, ...] = ()
    delivered: tuple[str, ...] = ()


class Outbox:
    """Its thread runs from `start` to `close`. A failure is logged once for each host until it answers again.

    `allowed` bounds the addresses that are connected to; None allows every one. With `remember`, a message that was delivered is not taken
    again.
    """

    def __init__(
        self,
        file: Path,
        secret: bytes,
        *,
        allowed: AllowedHosts | None = None,
        remember: bool = False,
        retries: Retries = Retries(),
    ) -> None:
        self._file, self._secret, self._allowed, self._remember, self._retries = file, secret, allowed, remember, retries
        self._state = _read(file)
        self._changed = threading.Condition()
        self._closing = False
        self._failures: dict[str, int] = {}
        self._rests_until: dict[str, float] = {}
        self._lost = 0
        self._reason: str | None = None
        # A daemon: a receiver that hangs must not keep a finished search from ending.
        self._thread = threading.Thread(target=self._run, name="autoslim-webhook", daemon=True)

    @property
    def cursor(self) -> int:
        return self._state.cursor

    def start(self) -> Outbox:
        self._thread.start()
        return self

    def put(self, messages: Sequence[Message], *, cursor: int | None = None) -> None:
        """Those whose ids are known are left out."""
        with self._changed:
            state = self._state
            known = {*state.delivered, *(message.id for message in state.pending)}
            new = [message for message in messages if message.id not in known][: max(0, MOST_PENDING - len(state.pending))]
            self._lost += sum(message.id not in known for message in messages) - len(new)
            self._store(state.replace(pending=(*state.pending, *new), cursor=state.cursor if cursor is None else cursor))
            self._changed.notify()

    def redirect(self, url: str) -> None:
        """What waits goes to this URL instead, with all its tries."""
        with self._changed:
            pending = tuple(message.replace(url=url, tries=0) for message in self._state.pending)
            self._store(self._state.replace(pending=pending))

    def close(self, timeout: float) -> str | None:
        """Tries what waits once more at once, for at most `timeout` seconds. Returns what is not delivered and why; None if all is."""
        with self._changed:
            self._closing = True
            self._rests_until.clear()
            self._changed.notify()
        self._thread.join(timeout)
        waiting = len(self._state.pending)
        if not waiting and not self._lost:
            return None
        return f"{waiting + self._lost} notifications were not delivered: {self._reason or 'their host is slow'}"

    def _run(self) -> None:
        while True:
            with self._changed:
                while (message := self._next()) is None:
                    if self._closing and not self._state.pending:
                        return
                    self._changed.wait(self._seconds_to_next())
            self._deliver(message)

    def _next(self) -> Message | None:
        now = time.monotonic()
        return next((each for each in self._state.pending if self._rests_until.get(_host(each), 0.0) <= now), None)

    def _seconds_to_next(self) -> float | None:
        moments = [self._rests_until.get(_host(each), 0.0) for each in self._state.pending]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _deliver(self, message: Message) -> None:
        host = _host(message)
        try:
            post(message, self._secret, allowed=self._allowed)
        except UnavailableError as error:
            self._failed(message, host, str(error))
        except RequestError as error:
            # The address is not allowed: another try would ask for it again.
            self._given_up(message, str(error))
        else:
            with self._changed:
                self._failures.pop(host, None)
                self._remove(message)

    def _failed(self, message: Message, host: str, reason: str) -> None:
        with self._changed:
            failures = self._failures[host] = self._failures.get(host, 0) + 1
            self._rests_until[host] = time.monotonic() + self._retries.delay(failures)
            self._reason = reason
            tried = message.replace(tries=message.tries + 1)
            if tried.tries < self._retries.tries:
                # Behind the others: one that its receiver cannot take holds none of them up.
                rest = tuple(each for each in self._state.pending if each.id != message.id)
                self._store(self._state.replace(pending=(*rest, tried)))
        if tried.tries >= self._retries.tries:
            self._given_up(message, reason)
        elif failures == 1:
            _log.warning("%s; it is tried again", reason)

    def _given_up(self, message: Message, reason: str) -> None:
        _log.error("the notification %s (%s) is given up: %s", message.id, message.type, reason)
        with self._changed:
            self._lost, self._reason = self._lost + 1, reason
            self._remove(message, delivered=False)

    def _remove(self, message: Message, *, delivered: bool = True) -> None:
        rest = tuple(each for each in self._state.pending if each.id != message.id)
        done = (message.id,) if delivered and self._remember else ()
        self._store(self._state.replace(pending=rest, delivered=(*self._state.delivered, *done)))

    def _store(self, state: Waiting) -> None:
        if state == self._state:
            return
        self._state = state
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file, state.to_json() + "\n")
            # The URL may hold a token of its receiver.
            self._file.chmod(0o600)
        except OSError as error:
            _log.warning("%s cannot be written: %s; a process that is killed now loses notifications", self._file, error.strerror)


def _host(message: Message) -> str:
    return urlsplit(message.url).netloc


def _read(file: Path) -> Waiting:
    """Empty where there is none, or one of a later version."""
    with contextlib.suppress(FileNotFoundError):
        try:
            return Waiting.from_json(file.read_text(encoding="utf-8"))
        except RequestError as error:
            _log.warning("%s is not read: %s", file, error)
    return Waiting()
