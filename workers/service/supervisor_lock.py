"""`SupervisorLock`: at most one supervisor runs the jobs of a root folder on a machine; a second one waits for its end."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable
from pathlib import Path

import filelock

from autoslim.core.file_lock import remove_lock_file
from autoslim.core.files import write_atomically
from autoslim.errors import OutputError
from workers.service.process_identity import ProcessIdentity
from workers.service.stop_request import StopRequest

_log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_PREFIX, _HOLDER, _LOCK = "supervisor-", ".json", ".lock"


class SupervisorLock:
    """The system releases it when its process ends, however it ends. Machines that share the folder have a lock each, by their names.

    A pod or a container is a machine with a new name at each start: who gets its lock deletes the files of those that have ended.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        name = f"{_PREFIX}{socket.gethostname()}"
        self._path, self._holder = root / f"{name}{_LOCK}", root / f"{name}{_HOLDER}"
        self._lock = filelock.FileLock(self._path, mode=0o600)

    def acquire(self, stop: StopRequest, pid: int, *, beat: Callable[[], None]) -> bool:
        """Waits until this process is the only supervisor, with a `beat` at each look; False when it was asked to stop before.

        Raises:
            OutputError: where the folder cannot be written, or its file system has no locks.
        """
        announced = False
        while not stop.requested:
            if self._try():
                write_atomically(self._holder, ProcessIdentity.of(pid).to_json())
                self._remove_left()
                return True
            if not announced:
                _log.warning("%s; this one waits until that one has ended", self._described_holder())
                announced = True
            beat()
            stop.sleep(_POLL_SECONDS)
        return False

    def __enter__(self) -> SupervisorLock:
        """Of a lock that is unfinished."""
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _try(self) -> bool:
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            return False
        except (OSError, NotImplementedError) as error:
            raise OutputError(
                f"--root {self._root} cannot be locked ({error}), so that two supervisors could run its jobs; "
                "choose a folder on a file system with locks"
            ) from error
        return True

    def _remove_left(self) -> None:
        for lock in self._root.glob(f"{_PREFIX}*{_LOCK}"):
            if lock == self._path:
                continue
            try:
                remove_lock_file(lock, lock.with_name(lock.name.removesuffix(_LOCK) + _HOLDER))
            except (OSError, NotImplementedError) as error:
                # A file more costs nothing.
                _log.warning("%s, of a supervisor that has ended, cannot be deleted: %s", lock, error)

    def _described_holder(self) -> str:
        try:
            process = ProcessIdentity.from_json(self._holder.read_text())
        except (OSError, json.JSONDecodeError):
            # Between taking the lock and writing this file.
            return f"another supervisor runs the jobs of {self._root}"
        return f"another supervisor, process {process.pid}, runs the jobs of {self._root}"
