"""Drivers as processes of this machine. Each has a file that says who it is, so that the next supervisor finds those of the last."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from autoslim.core.files import write_atomically
from workers.service.executor import Driver, Executor
from workers.service.process import Process
from workers.service.settings import DriverSettings

_log = logging.getLogger(__name__)

GRACE = 45.0
"""Seconds between asking a driver to end and making it."""
_LAST_WAIT = 10.0


class LocalExecutor(Executor):
    """`command` is what a job's id and the attempt are put behind."""

    def __init__(
        self,
        settings: DriverSettings,
        *,
        command: Sequence[str] = (sys.executable, "-m", "workers.service.attempt"),
        grace: float = GRACE,
    ) -> None:
        self._settings, self._command, self._grace = settings, tuple(command), grace
        self._folder = settings.root / "drivers"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._children: dict[Driver, subprocess.Popen[bytes]] = {}
        self._asked: dict[Driver, float] = {}

    def start(self, driver: Driver) -> None:
        if self._file(driver).exists():
            return
        log = self._settings.log(driver.job_id, driver.attempt)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            child = subprocess.Popen(  # noqa: S603 - our own module, with an id that we have made
                [*self._command, driver.job_id, str(driver.attempt)],
                # A session of its own: it outlives this process, and Ctrl-C in a terminal is not meant for it.
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, **self._settings.environment(secrets=True)},
            )
        self._write(driver, Process.of(child.pid))
        self._children[driver] = child

    def list_drivers(self) -> dict[Driver, bool]:
        """Of this machine, since it was booted."""
        found = [Driver.of(path.stem) for path in self._folder.glob("*.json")]
        return {driver: not self._is_dead(driver) for driver in found if driver is not None and self._is_here(driver)}

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
        if driver not in self._asked:
            self._asked[driver] = time.monotonic()
            _send(process, signal.SIGTERM)
        elif time.monotonic() - self._asked[driver] > self._grace:
            _log.warning("driver %s did not end when it was asked to and is killed", driver.name)
            _send(process, signal.SIGKILL)

    def forget(self, driver: Driver) -> None:
        self._file(driver).unlink(missing_ok=True)
        self._asked.pop(driver, None)
        child = self._children.pop(driver, None)
        if child is not None:
            # It is dead, so that this only takes its exit code off the system.
            child.wait()

    def close(self) -> None:
        """Asks all drivers to end. They write their checkpoints and give their jobs back, after this process has ended if need be."""
        for driver in self.list_drivers():
            self.stop(driver)
        deadline = time.monotonic() + _LAST_WAIT
        while any(self.list_drivers().values()) and time.monotonic() < deadline:
            time.sleep(0.1)

    def _file(self, driver: Driver) -> Path:
        return self._folder / f"{driver.name}.json"

    def _write(self, driver: Driver, process: Process) -> None:
        write_atomically(self._file(driver), process.to_json())

    def _read(self, driver: Driver) -> Process | None:
        try:
            return Process.from_json(self._file(driver).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None


def _send(process: Process, number: signal.Signals) -> None:
    """It may have ended a moment ago."""
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        _log.debug("process %d has ended by itself", process.pid)
