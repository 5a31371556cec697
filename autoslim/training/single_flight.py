"""Single flight: the first process that needs a result computes it, on any node; the others wait for it and read it.

The result is a folder that one rename publishes. A lock beside it names the process at work, and a heartbeat shows that it is alive.
Nothing but the storage that the nodes share is needed, so a result outlives the workers and the driver. Clocks of two nodes are never
compared: a waiter measures with its own clock how long the heartbeat has not changed. Nodes that share no file system have a store
(`Mirror`): then one process of each node looks there, and one of these computes (`StorageLease`).
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TypeVar

from autoslim.core import activity
from autoslim.core.files import publish_folder
from autoslim.core.pid_namespace import pid_namespace
from autoslim.core.result import EpochReport
from autoslim.storage.mirror import NO_MIRROR, Mirror

HEARTBEAT_SECONDS = 5.0
DEAD_AFTER_SECONDS = 60.0
"""Seconds without a heartbeat after which a waiter takes over the work: twelve in a row missed, more than a slow network file system delays
one. A dead process on the waiter's own machine is noticed at once."""

_POLL_SECONDS = 0.5
_MOST_POLL_SECONDS = 4.0
"""Between two tries at a store, each of which is four requests: another node may take hours."""

COST = "cost.json"
"""In a result's folder: what computing it has cost."""

KEPT_COSTS = "costs"
"""In a store: the costs of all results by their keys, since the results themselves are archives there."""

Result = TypeVar("Result")
Reports = Generator[EpochReport, None, Result]


def single_flight(
    folder: Path, read: Callable[[], Result | None], work: Callable[[], Reports[None]], *, mirror: Mirror = NO_MIRROR
) -> Reports[Result]:
    """Returns what `read` finds in `folder`. If it finds nothing (None), one process runs `work`, which publishes `folder`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    while True:
        found = read()
        if found is not None:
            if mirror.uri is not None and not mirror.has(folder):
                # The node has it of an output that was deleted since.
                keep_result(folder, mirror)
            return found
        lock = _Lock(folder.with_name(folder.name + ".lock"))
        if lock.acquire():
            with lock.kept_alive():
                # Another process may have published between the read and the lock.
                if read() is None:
                    yield from work() if mirror.uri is None else _on_one_node(folder, work, mirror)
        else:
            lock.wait(until=lambda: read() is not None)


def _on_one_node(folder: Path, work: Callable[[], Reports[None]], mirror: Mirror) -> Reports[None]:
    """Brings `folder` from the store; where it has none, this node or another one runs `work`."""
    lease, pause = mirror.lease(folder.name), _POLL_SECONDS
    while not mirror.fetch(folder):
        if not lease.acquire():
            activity.mark()
            # Two nodes that have drawn back at once should not try at once again.
            time.sleep(random.SystemRandom().uniform(1, 2) * pause)
            pause = min(2 * pause, _MOST_POLL_SECONDS)
            continue
        try:
            # Another node may have finished between the look and the lease.
            if not mirror.fetch(folder):
                yield from work()
                keep_result(folder, mirror)
        finally:
            lease.release()


def keep_result(folder: Path, mirror: Mirror) -> None:
    """Puts a published result into the store, and its cost beside it, which the driver reads without the result."""
    mirror.keep(folder)
    if (folder / COST).is_file():
        mirror.write_text(f"{KEPT_COSTS}/{folder.name}.json", (folder / COST).read_text())


@contextlib.contextmanager
def publish_shared(folder: Path, read: Callable[[], object | None]) -> Iterator[Path]:
    """Yields a folder to write to. It becomes `folder`, unless a process that took over this work has published first."""
    try:
        with publish_folder(folder, contested=True) as partial:
            yield partial
    except OSError:
        # The work is deterministic: the result of the other process is the same.
        if read() is None:
            raise


def remove_leftovers(folder: Path) -> None:
    """Removes locks and partial results of killed processes; call it only where no other process works in `folder`."""
    for left in (*folder.glob("*.lock"), *folder.glob("*.partial-*")):
        shutil.rmtree(left, ignore_errors=True)


class _Lock:
    """A folder, since creating one is atomic on every file system. Its file `heartbeat` changes while the owner is alive."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # The random part makes each acquisition unique: a process may acquire the same lock twice.
        self.owner = f"{uuid.uuid4().hex} {pid_namespace() or 'unknown'} {os.getpid()}"

    def acquire(self) -> bool:
        try:
            self.path.mkdir()
        except FileExistsError:
            return False
        self._write_heartbeat(0)
        return True

    @contextlib.contextmanager
    def kept_alive(self) -> Iterator[None]:
        """Writes heartbeats until the block ends, then releases the lock."""
        stop = threading.Event()

        def keep_alive() -> None:
            count = 0
            while not stop.wait(HEARTBEAT_SECONDS):
                count += 1
                # A heartbeat that the storage refuses is one missed; after a dozen a waiter rightly takes over.
                with contextlib.suppress(OSError):
                    if not self._is_ours():
                        return
                    self._write_heartbeat(count)

        thread = threading.Thread(target=keep_alive, daemon=True)
        # CPython waits here, without a limit, for a flag that the new thread sets: one that finds no memory dies before it does so, and
        # this one hangs (python/cpython#140746). It is so wherever Python starts a thread, also in a loader's pool, so that nothing is done
        # about it here alone: `StallWatch` ends the process that hangs.
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            # A lock that was broken and acquired by another process is that process's to release.
            if self._is_ours():
                shutil.rmtree(self.path, ignore_errors=True)

    def wait(self, *, until: Callable[[], bool]) -> None:
        """Returns when `until` is true, the lock is free, or the owner is dead and the lock is broken."""
        seen, since = _read_heartbeat(self.path), time.monotonic()
        while self.path.exists() and not until():
            # Who waits is not idle. The owner's heartbeat says nothing of its work, which the owner's own process is watched for.
            activity.mark()
            time.sleep(_POLL_SECONDS)
            now = _read_heartbeat(self.path)
            if now != seen:
                seen, since = now, time.monotonic()
            if _is_dead(now) or time.monotonic() - since > DEAD_AFTER_SECONDS:
                self._break(now)
                return

    def _break(self, dead: str) -> None:
        """Removes the lock whose last heartbeat is `dead`; a lock that another waiter has made in its place is put back."""
        grave = self.path.with_name(f"{self.path.name}.dead-{uuid.uuid4().hex}")
        # The lock no longer exists where the owner has finished after all; then there is nothing to break.
        with contextlib.suppress(OSError):
            # Of several waiters one rename succeeds.
            os.rename(self.path, grave)
            if _read_heartbeat(grave).split()[:1] != dead.split()[:1]:
                # Another waiter has broken the lock and acquired it anew since `dead` was read.
                os.rename(grave, self.path)
                return
            shutil.rmtree(grave, ignore_errors=True)

    def _write_heartbeat(self, count: int) -> None:
        (self.path / "heartbeat").write_text(f"{self.owner} {count}")

    def _is_ours(self) -> bool:
        return _read_heartbeat(self.path).startswith(self.owner)


def _read_heartbeat(lock: Path) -> str:
    """Empty if the owner has not written one yet, or has released the lock; network storage reports that by several kinds of error."""
    try:
        return (lock / "heartbeat").read_text()
    except OSError:
        return ""


def _is_dead(heartbeat: str) -> bool:
    """Whether the owner is known to have ended, which only a process in the same PID namespace can tell."""
    parts = heartbeat.split()
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
