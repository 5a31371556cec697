"""A program that runs in the background, with a log, and that is found and ended by who it is and not by its name."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from workers.service.process import Process

_GRACE = 25.0


@dataclasses.dataclass(frozen=True)
class Program:
    """`folder` has a log and a file that says who each program is. Programs outlive whoever started them."""

    name: str
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def _file(self) -> Path:
        return self.folder / f"{self.name}.json"

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Raises RuntimeError when it runs already."""
        if self.is_alive():
            raise RuntimeError(f"{self.name} runs already; stop it first")
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                # All that it starts is in this session, too, unless it takes care not to be.
                start_new_session=True,
            )
        # It is another's to collect: of a child that has ended, /proc says so as well.
        child.returncode = 0
        self._file.write_text(Process.of(child.pid).to_json())

    def is_alive(self) -> bool:
        process = self._read()
        return process is not None and process.is_here() and not process.is_dead()

    def stop(self) -> None:
        """Asks it to end, and after a while ends it and what is left of its session."""
        process = self._read()
        if process is None or not process.is_here():
            self._file.unlink(missing_ok=True)
            return
        members = _session(process.pid)
        if not process.is_dead():
            _send(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE
        while not process.is_dead() and time.monotonic() < deadline:
            time.sleep(0.1)
        for member in {*members, *_session(process.pid)}:
            if not member.is_dead():
                _send(member.pid, signal.SIGKILL)
        self._file.unlink(missing_ok=True)

    def tail(self, characters: int = 3000) -> str:
        try:
            return self.log.read_text(errors="replace")[-characters:]
        except FileNotFoundError:
            return ""

    def _read(self) -> Process | None:
        try:
            return Process.from_json(self._file.read_text())
        except FileNotFoundError:
            return None


def _session(leader: int) -> list[Process]:
    """The processes of the session that this one began."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(entry.name)) == leader:
                found.append(Process.of(int(entry.name)))
        except (ProcessLookupError, PermissionError):
            continue
    return found


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
