"""Drivers as processes of this machine. A file per driver identifies its process, so that the next supervisor finds it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from autoslim.core.files import write_atomically
from autoslim.errors import RequestError
from autoslim.webhook.secret import SECRET, SECRET_FILE
from workers.service.executor import Driver, DriverState, Executor
from workers.service.niceness import give_way
from workers.service.process_identity import ProcessIdentity
from workers.service.settings import DriverSettings

_log = logging.getLogger(__name__)

STOP_GRACE = 45.0
"""Seconds from SIGTERM to SIGKILL: longer than the 30 s that a driver gives its search."""
# Seconds from SIGKILL until the system has removed a process.
_KILL_SECONDS = 5.0


class LocalExecutor(Executor):
    """`command` is run with the job's id and the attempt as arguments; `grace` is in seconds."""

    unreachable_reason = "drivers cannot be started on the service's machine"

    def __init__(
        self,
        settings: DriverSettings,
        *,
        command: Sequence[str] = (sys.executable, "-m", "workers.service.attempt"),
        grace: float = STOP_GRACE,
    ) -> None:
        self._settings, self._command, self._grace = settings, tuple(command), grace
        self._folder = settings.root / "drivers"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._children: dict[Driver, subprocess.Popen[bytes]] = {}
        self._stopped_at: dict[Driver, float] = {}

    def start(self, driver: Driver) -> None:
        known = self._read(driver)
        # Whoever has claimed an attempt starts it, and nobody else. A record of another boot or machine is from before a restore, or a
        # power cut that undid the claim: it is of no process that could run this attempt.
        if known is not None and known.is_here():
            return
        log = self._settings.log(driver.job_id, driver.attempt)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            child = subprocess.Popen(  # noqa: S603 - our own module, with an id of our own
                [*self._command, driver.job_id, str(driver.attempt)],
                # Its own session: it outlives this process, and Ctrl-C in a terminal does not reach it.
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stderr=errors,
                env={**_without_webhook_secret(), **self._settings.environment(secrets=True)},
            )
        self._children[driver] = child
        # The trials inherit it: a driver's search leaves Ray's workers at its own priority.
        give_way(child.pid, self._settings.niceness)
        try:
            self._write(driver, ProcessIdentity.of(child.pid))
        except OSError:
            # Such as a full disk. Without the file no later supervisor would find the process.
            child.kill()
            child.wait()
            del self._children[driver]
            raise

    def list_drivers(self) -> dict[Driver, DriverState]:
        """The drivers of this machine since its last boot; others may share the folder."""
        found = [Driver.parse(path.stem) for path in self._folder.glob("*.json")]
        return {
            driver: DriverState.ENDED if self._is_dead(driver) else DriverState.RUNNING
            for driver in found
            if driver is not None and self._is_here(driver)
        }

    def _is_here(self, driver: Driver) -> bool:
        process = self._read(driver)
        return process is not None and process.is_here()

    def _is_dead(self, driver: Driver) -> bool:
        child = self._children.get(driver)
        if child is not None and child.poll() is not None:
            return True
        process = self._read(driver)
        return process is not None and process.is_dead()

    def stop(self, driver: Driver) -> None:
        process = self._read(driver)
        if process is None or not process.is_here() or self._is_dead(driver):
            return
        if driver not in self._stopped_at:
            self._stopped_at[driver] = time.monotonic()
            _send(process, signal.SIGTERM)
        elif time.monotonic() - self._stopped_at[driver] > self._grace:
            _log.warning("driver %s did not end after SIGTERM and is killed", driver.name)
            _send(process, signal.SIGKILL)

    def delete_record(self, driver: Driver) -> None:
        child = self._children.pop(driver, None)
        if child is not None:
            # Reaps the zombie; does not block, since the process has ended. Where the record is gone, so is the process.
            child.wait()
        self._file(driver).unlink(missing_ok=True)
        self._stopped_at.pop(driver, None)

    def close(self) -> None:
        """Ends all drivers of this machine: they write their checkpoints and requeue their jobs, or are killed after the grace period."""
        deadline = time.monotonic() + self._grace + _KILL_SECONDS
        while time.monotonic() < deadline:
            alive = [driver for driver, state in self.list_drivers().items() if state.alive]
            if not alive:
                return
            for driver in alive:
                self.stop(driver)
            time.sleep(0.1)

    def _file(self, driver: Driver) -> Path:
        return self._folder / f"{driver.name}.json"

    def _write(self, driver: Driver, process: ProcessIdentity) -> None:
        write_atomically(self._file(driver), process.to_json())

    def _read(self, driver: Driver) -> ProcessIdentity | None:
        try:
            return ProcessIdentity.from_json(self._file(driver).read_text())
        except (FileNotFoundError, RequestError):
            # RequestError: a disk that was full or lost power has cut the file short. It names no process.
            return None


def _without_webhook_secret() -> dict[str, str]:
    """The environment of this process: the supervisor signs, and no driver or trial has a use for the key."""
    return {name: value for name, value in os.environ.items() if name not in (SECRET, SECRET_FILE)}


def _send(process: ProcessIdentity, number: signal.Signals) -> None:
    """Does nothing for a process that has ended meanwhile."""
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        _log.debug("process %d has ended already", process.pid)
