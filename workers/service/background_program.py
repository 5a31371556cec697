"""A program that runs in the background with a log, found and stopped by its process's identity instead of its name."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from workers.service.process_identity import ProcessIdentity

# Longer than PostgreSQL, Ray and the supervisor take to end in order.
_STOP_SECONDS = 25.0
# From SIGKILL until the system has ended a process.
_KILL_SECONDS = 5.0
# For a program to be ready: on a busy machine Ray alone takes one minute.
_READY_SECONDS = 240.0


@dataclasses.dataclass(frozen=True)
class Program:
    """`folder` has a log and an identity file per program. A program outlives the process that started it."""

    name: str
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def _file(self) -> Path:
        return self.folder / f"{self.name}.json"

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """The id of its process, which leads a session. Raises RuntimeError when it runs already."""
        if self.is_alive():
            raise RuntimeError(f"{self.name} runs already; stop it first")
        self._reap()
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            child = subprocess.Popen(  # noqa: S603 - an operator's own command
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                # Its own session, which its children belong to as well unless they leave it.
                start_new_session=True,
            )
        # Keeps Popen from waiting for a child that outlives this process.
        child.returncode = 0
        self._file.write_text(ProcessIdentity.of(child.pid).to_json())
        return child.pid

    def wait_until(self, is_ready: Callable[[], bool], *, seconds: float = _READY_SECONDS) -> None:
        """Returns once `is_ready`, which is asked while the program is alive.

        Raises:
            RuntimeError: with the end of its log, when it exits before that or takes longer than `seconds`.
        """
        deadline = time.monotonic() + seconds
        while True:
            if not self.is_alive():
                raise RuntimeError(f"{self.name} has exited; the end of {self.log}:\n{self.tail()}")
            if is_ready():
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not answer; the end of {self.log}:\n{self.tail()}")
            time.sleep(0.5)

    def is_alive(self) -> bool:
        process = self._read()
        return process is not None and process.is_here() and not process.is_dead()

    def stop(self) -> None:
        """Sends SIGTERM, and after 25 s SIGKILL to what is left of its session."""
        process = self._read()
        if process is None or not process.is_here():
            self._file.unlink(missing_ok=True)
            return
        members = _session(process.pid)
        if not process.is_dead():
            _send(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while not process.is_dead() and time.monotonic() < deadline:
            time.sleep(0.1)
        for member in {*members, *_session(process.pid)}:
            if not member.is_dead():
                _send(member.pid, signal.SIGKILL)
        deadline = time.monotonic() + _KILL_SECONDS
        while not process.is_dead() and time.monotonic() < deadline:
            time.sleep(0.01)
        self._reap()
        self._file.unlink(missing_ok=True)

    def tail(self, characters: int = 3000) -> str:
        try:
            return self.log.read_text(errors="replace")[-characters:]
        except FileNotFoundError:
            return ""

    def _read(self) -> ProcessIdentity | None:
        try:
            return ProcessIdentity.from_json(self._file.read_text())
        except FileNotFoundError:
            return None

    def _reap(self) -> None:
        """Nobody waits for a program that has ended: as long as the process lives that has started it, it would be one of its children."""
        process = self._read()
        if process is not None:
            process.reap()


def _session(leader: int) -> list[ProcessIdentity]:
    """The processes of the session that `leader` started."""
    found = []
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == leader:
                found.append(ProcessIdentity.of(pid))
        except (ProcessLookupError, PermissionError):
            continue
    return found


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
