"""Work that must be done once, by whoever needs it first, while the others wait, on whatever node.

The result lies in a folder that is published by one rename; a lock beside it says who is at work, and its beat that they still live.
Nothing else is needed of the cluster than the storage that its nodes share anyway, so the result outlives workers and driver alike.
Clocks are never compared: a waiter watches the beat with its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TypeVar

from autoslim.core.files import publish_folder
from autoslim.core.pid_namespace import pid_namespace
from autoslim.core.result import EpochReport

BEAT_EVERY = 5.0
DEAD_AFTER = 60.0
"""Seconds without a beat after which a waiter takes the work over; a process of the waiter's own host it need not wait for."""

_POLL = 0.5

Result = TypeVar("Result")
Reports = Generator[EpochReport, None, Result]


def single_flight(folder: Path, read: Callable[[], Result | None], work: Callable[[], Reports[None]]) -> Reports[Result]:
    """What `read` finds in `folder`, after `work` has published it there if it was not there yet."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    while True:
        found = read()
        if found is not None:
            return found
        lock = _Lock(folder.with_name(folder.name + ".lock"))
        if lock.take():
            with lock.held():
                if read() is None:
                    yield from work()
        else:
            lock.wait(until=lambda: read() is not None)


@contextlib.contextmanager
def publishing(folder: Path, read: Callable[[], object | None]) -> Iterator[Path]:
    """A folder to write into; it becomes `folder`, unless someone who took this work for dead was quicker."""
    try:
        with publish_folder(folder, contested=True) as partial:
            yield partial
    except OSError:
        # The other's result is as good.
        if read() is None:
            raise


def drop_leftovers(folder: Path) -> None:
    """For one who knows that nobody else is at work in `folder`: locks and half-written results there are those of killed processes."""
    for left in (*folder.glob("*.lock"), *folder.glob("*.partial-*")):
        shutil.rmtree(left, ignore_errors=True)


class _Lock:
    """A folder, because making one is atomic on every file system; its file `beat` changes while the owner lives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.owner = f"{uuid.uuid4().hex} {pid_namespace() or 'unknown'} {os.getpid()}"

    def take(self) -> bool:
        try:
            self.path.mkdir()
        except FileExistsError:
            return False
        self._beat(0)
        return True

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        stop = threading.Event()

        def beat() -> None:
            count = 0
            while not stop.wait(BEAT_EVERY):
                count += 1
                # A beat that storage refuses is one beat missed; a dozen in a row, and a waiter rightly takes the work over.
                with contextlib.suppress(OSError):
                    if not self._last().startswith(self.owner):
                        return
                    self._beat(count)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            if self._last().startswith(self.owner):
                shutil.rmtree(self.path, ignore_errors=True)

    def wait(self, *, until: Callable[[], bool]) -> None:
        """Returns when the result is there, the lock is free, or its owner was found dead and the lock broken."""
        seen, since = self._last(), time.monotonic()
        while self.path.exists() and not until():
            time.sleep(_POLL)
            now = self._last()
            if now != seen:
                seen, since = now, time.monotonic()
            if _is_dead(now) or time.monotonic() - since > DEAD_AFTER:
                self._break(now)
                return

    def _break(self, dead: str) -> None:
        """Moves the lock away whose last beat was `dead`; where another waiter was quicker and has taken it anew, it is put back."""
        grave = self.path.with_name(f"{self.path.name}.dead-{uuid.uuid4().hex}")
        # It is gone where the owner has finished after all; then there is nothing to break.
        with contextlib.suppress(OSError):
            os.rename(self.path, grave)
            if _read_beat(grave).split()[:1] != dead.split()[:1]:
                os.rename(grave, self.path)
                return
            shutil.rmtree(grave, ignore_errors=True)

    def _beat(self, count: int) -> None:
        (self.path / "beat").write_text(f"{self.owner} {count}")

    def _last(self) -> str:
        """Empty where the owner has not come to its first beat, or has just gone."""
        return _read_beat(self.path)


def _read_beat(lock: Path) -> str:
    """Network storage has more than one word for what is gone."""
    try:
        return (lock / "beat").read_text()
    except OSError:
        return ""


def _is_dead(beat: str) -> bool:
    """Whether the beat is that of a process which is known to be gone, because it would be seen from here."""
    parts = beat.split()
    if len(parts) != 4 or parts[1] != pid_namespace():
        return False
    try:
        os.kill(int(parts[2]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
