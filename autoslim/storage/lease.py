"""`StorageLease`: one process at a time does a piece of work whose result lies in a store, on whichever machine it runs.

A store has no locks. A process that wants the lease writes a claim, an object of its own, and then lists all claims. Where it finds
another one that is alive, it takes its own back. So two never have the lease: the later one of two finds the claim of the earlier one. Two
that begin in the same moment may both draw back, and try again. The owner writes its claim again every few seconds; one that could not for
long looks for other claims, as whoever wants the lease does, before it counts as the owner again. The times of two claims are compared as
the store gives them, so that the clocks of the machines do not matter.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import random
import threading
import time
import uuid
from collections.abc import Callable

from autoslim.core import activity
from autoslim.core.pid_namespace import pid_namespace
from autoslim.errors import OutputError, StorageError, UnavailableError
from autoslim.storage.objects import delete_object, objects_below, read_object, write_object
from autoslim.storage.uri import StorageUri

HEARTBEAT_SECONDS = 10.0
DEAD_AFTER_SECONDS = 60.0
"""Between the times of a claim and of a newer one: six heartbeats in a row missed, more than a request with its retries takes."""

_log = logging.getLogger(__name__)


class StorageLease:
    """On what `folder` says; the claims are the objects in it. `heartbeat` and `dead_after` are in seconds."""

    def __init__(
        self, folder: StorageUri, *, heartbeat: float = HEARTBEAT_SECONDS, dead_after: float = DEAD_AFTER_SECONDS
    ) -> None:
        self._folder, self._heartbeat, self._dead_after = folder, heartbeat, dead_after
        self._name = uuid.uuid4().hex
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        # When the request began that has written the claim last; monotonic seconds.
        self._written = 0.0

    def acquire(self) -> bool:
        """Whether this process has the lease now, until `release`.

        Raises:
            StorageError, UnavailableError: where the store cannot be read or written.
        """
        self._claim(0)
        if self._others():
            delete_object(self._own)
            return False
        self._ended.clear()
        self._thread = threading.Thread(target=self._keep_alive, name="autoslim-lease", daemon=True)
        self._thread.start()
        return True

    def wait(self, busy: str, *, tell: Callable[[str], None] = lambda line: None) -> None:
        """Acquires the lease, also that of an owner that has died, which is known when its claim is old. `tell` gets a line where this
        takes time.

        Raises:
            OutputError: with the message `busy`, where the owner is alive.
            StorageError, UnavailableError: as `acquire`.
        """
        seen: dict[str, str] | None = None
        while not self.acquire():
            activity.mark()
            owners = self._owners()
            if seen is None:
                tell(f"waiting up to {self._dead_after:.0f} s for another process that has worked there, and may have ended")
            elif any(name in seen and seen[name] != text for name, text in owners.items()):
                raise OutputError(busy)
            seen = owners
            # Two that have drawn back at once should not try at once again.
            time.sleep(self._heartbeat * random.SystemRandom().uniform(0.3, 0.7))

    def check(self) -> None:
        """Raises OutputError where another process has taken the lease over, because this one could not be heard of for long."""
        if read_object(self._own) is None or not self._holds_after_silence():
            raise OutputError(
                f"another process has taken over {self._folder}, because this one was not heard of for {self._dead_after:.0f} s"
            )

    def release(self) -> None:
        """Raises StorageError, UnavailableError where the claim cannot be deleted; it is dead when it is old."""
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            self._thread = None
            delete_object(self._own)

    @property
    def _own(self) -> StorageUri:
        return self._folder / self._name

    def _claim(self, count: int) -> None:
        began = time.monotonic()
        write_object(self._own, f"{pid_namespace() or 'unknown'} {os.getpid()} {count}")
        self._written = began

    def _holds_after_silence(self) -> bool:
        """Whether nobody has taken the lease of an owner that could not write its claim for as long as it takes to count as dead."""
        if time.monotonic() - self._written <= self._dead_after:
            return True
        # Another process may find the old claim at this moment, and delete it: this is written first, as by one that wants the lease.
        self._claim(0)
        if not self._others():
            return True
        delete_object(self._own)
        return False

    def _keep_alive(self) -> None:
        count = 0
        while not self._ended.wait(self._heartbeat):
            count += 1
            # A heartbeat that the store refuses is one missed; after six of them another process rightly takes over.
            with contextlib.suppress(StorageError, UnavailableError):
                # A claim that is gone was found dead, and is not made again.
                if read_object(self._own) is None or not self._holds_after_silence():
                    _log.warning("another process has taken over %s", self._folder)
                    return
                self._claim(count)

    def _others(self) -> bool:
        """Whether there is another claim that is alive. Dead ones are deleted."""
        infos = objects_below(self._folder)
        now = next((info.mtime for info in infos if info.base_name == self._name), None)
        alive = False
        for info in infos:
            if info.base_name != self._name:
                claim = self._folder / info.base_name
                if self._is_old(info.mtime, now) or _has_ended(_text(claim)):
                    delete_object(claim)
                else:
                    alive = True
        return alive

    def _is_old(self, then: datetime.datetime | None, now: datetime.datetime | None) -> bool:
        # A store without times, as `hf://` is: a claim of a machine that has died has to be deleted by hand.
        return then is not None and now is not None and (now - then).total_seconds() > self._dead_after

    def _owners(self) -> dict[str, str]:
        return {info.base_name: _text(self._folder / info.base_name) for info in objects_below(self._folder)}


def _text(claim: StorageUri) -> str:
    return (read_object(claim) or b"").decode(errors="replace")


def _has_ended(claim: str) -> bool:
    """Whether the owner is known to have ended, which only a process in the same PID namespace can tell."""
    parts = claim.split()
    if len(parts) != 3 or parts[0] != pid_namespace() or not parts[1].isdigit():
        return False
    try:
        os.kill(int(parts[1]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        # It exists, and belongs to another user.
        return False
    return False
