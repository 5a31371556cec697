"""Work that is done once, by the first process that needs it, while the others wait, on any node.

The result is a folder that is published by one rename. A lock beside it names its owner; the lock's beat shows that the owner
lives. All this needs is the storage that the nodes of a cluster share anyway, so the result outlives workers and driver.
Clocks are never compared: a waiter times the beat with its own clock.
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

# A dozen beats fit into `DEAD_AFTER`, so that a few failed writes do not cost the owner its lock.
BEAT_EVERY = 5.0
DEAD_AFTER = 60.0
"""Seconds without a beat after which a waiter takes the work over. A dead process of the waiter's own host is noticed at once."""

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
                # Read again under the lock: its last owner may have published in between.
                if read() is None:
                    yield from work()
        else:
            lock.wait(until=lambda: read() is not None)


@contextlib.contextmanager
def publishing(folder: Path, read: Callable[[], object | None]) -> Iterator[Path]:
    """A folder to write into; it becomes `folder`, unless a waiter that took this process for dead was quicker."""
    try:
        with publish_folder(folder, contested=True) as partial:
            yield partial
    except OSError:
        # Both have computed the same result, so that either will do.
        if read() is None:
            raise


def drop_leftovers(folder: Path) -> None:
    """Deletes what killed processes left in `folder`. Only for a caller that knows that no other process is at work there."""
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
                # A beat that storage refuses is only a missed one; after a dozen in a row a waiter rightly takes the work over.
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
        """Removes the lock whose last beat was `dead`; a lock that another waiter has made in its place is put back."""
        grave = self.path.with_name(f"{self.path.name}.dead-{uuid.uuid4().hex}")
        # The lock no longer exists where the owner has finished after all; then there is nothing to break.
        with contextlib.suppress(OSError):
            os.rename(self.path, grave)
            # The lock may have changed hands since its beat was read: the owner is compared after no other waiter can move it.
            if _read_beat(grave).split()[:1] != dead.split()[:1]:
                os.rename(grave, self.path)
                return
            shutil.rmtree(grave, ignore_errors=True)

    def _beat(self, count: int) -> None:
        (self.path / "beat").write_text(f"{self.owner} {count}")

    def _last(self) -> str:
        """Empty where the owner has not written its first beat yet, or has just removed the lock."""
        return _read_beat(self.path)


def _read_beat(lock: Path) -> str:
    """Empty for every OSError: network storage reports a deleted file by more than one error."""
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
    # The process exists, and belongs to another user.
    except PermissionError:
        return False
    return False
