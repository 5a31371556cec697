"""`Service`: the API and its supervisor as an operator runs them, and the processes of it that a fault may hit."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import httpx
import psutil

T = TypeVar("T")

_AUTOSLIM = (sys.executable, "-m", "autoslim.cli")
# For anything of the service to happen, on a busy machine.
_PATIENCE = 240.0


def free_port() -> int:
    """Below those that Linux gives to clients: while a server is away, the client that looks for it may get its port."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_768)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def until(found: Callable[[], T | None], what: str, *, seconds: float = _PATIENCE) -> T:
    """What `found` gives as soon as it gives anything."""
    deadline = time.monotonic() + seconds
    while (answer := found()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"in vain for {seconds:.0f} s: {what}")
        time.sleep(0.1)
    return answer


class Service:
    """`wrapper` is a command in front of `autoslim serve`, `more` are commands of autoslim that run beside it."""

    def __init__(
        self,
        folder: Path,
        *,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
        more: Sequence[Sequence[str]] = (),
    ) -> None:
        self.root, self.port = folder / "root", free_port()
        self.root.mkdir(parents=True, exist_ok=True)
        self._log = folder / "service.log"
        words = ("serve", "--root", str(self.root), "--port", str(self.port), *options)
        self._commands = [(*wrapper, *_AUTOSLIM, *words), *((*_AUTOSLIM, *command) for command in more)]
        self._environment = {**os.environ, **(environment or {})}
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def api(self) -> psutil.Process:
        return psutil.Process(self._processes[0].pid)

    def supervisor(self) -> psutil.Process:
        """The one that the API has started, once it has the folder's lock."""

        def found() -> psutil.Process | None:
            with contextlib.suppress(psutil.NoSuchProcess, OSError, ValueError):
                (holder,) = self.root.glob("supervisor-*.json")
                process = psutil.Process(json.loads(holder.read_text())["pid"])
                return process if process.ppid() == self._processes[0].pid else None
            return None

        return until(found, "a supervisor")

    def driver(self, job_id: str) -> psutil.Process:
        """Of the job's latest attempt."""
        return until(lambda: self._driver_now(job_id), "a driver")

    def _driver_now(self, job_id: str) -> psutil.Process | None:
        with contextlib.suppress(psutil.NoSuchProcess, OSError, ValueError):
            return psutil.Process(json.loads(max((self.root / "drivers").glob(f"{job_id}-*.json")).read_text())["pid"])
        return None

    def trial(self, job_id: str) -> psutil.Process | None:
        """A process in which a trial runs at this moment, if there is one."""
        with contextlib.suppress(psutil.NoSuchProcess):
            driver = self._driver_now(job_id)
            return next(filter(runs_trial, [] if driver is None else driver.children(recursive=True)), None)
        return None

    def everything(self, driver: psutil.Process) -> list[psutil.Process]:
        """All processes: the API, the supervisor, the driver, Ray's and the trials'. Drivers are in sessions of their own."""
        own = [self.api, driver]
        return [process for each in own for process in (each, *each.children(recursive=True))]

    def start(self) -> None:
        """As a service manager does, also after an end."""
        with self._log.open("ab") as log:
            self._processes = [
                subprocess.Popen(command, env=self._environment, stdout=log, stderr=log, start_new_session=True)
                for command in self._commands
            ]

    def until_ready(self) -> None:
        """The API answers and says that it can work, and its supervisor runs."""

        def ready() -> bool | None:
            try:
                return httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False).is_success or None
            except httpx.HTTPError:
                return None

        until(ready, "an API that is ready")
        self.supervisor()

    def beside(self, *words: str) -> subprocess.Popen[bytes]:
        """A further command of autoslim, from now on to the end of the service."""
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [*_AUTOSLIM, *words], env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        self._processes.append(process)
        return process

    def log(self) -> str:
        """What the API and all beside it have said so far."""
        return self._log.read_text(errors="replace")

    def end(self) -> None:
        """Waits for the API's end, which is asked for already, and ends what runs beside it."""
        self._processes[0].wait(_PATIENCE)
        for process in self._processes[1:]:
            process.terminate()
            process.wait(_PATIENCE)

    @contextlib.contextmanager
    def running(self) -> Iterator[Service]:
        self.start()
        try:
            yield self
        finally:
            for process in self._processes:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
            self.end()

    def autoslim(self, *words: str) -> str:
        """Stdout of a command of the operator."""
        command = [*_AUTOSLIM, *words, "--root", str(self.root)]
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, check=True).stdout.strip()

    def new_key(self, tenant: str) -> str:
        return self.autoslim("keys", "create", "--tenant", tenant, "--scope", "read", "--scope", "submit").split()[-1]

    def own(self) -> set[int]:
        """The processes that a service without jobs is: the API, its planner and the supervisor, without what that has started."""
        started = {process.pid for process in self.supervisor().children(recursive=True)}
        return {self.api.pid, *(process.pid for process in self.api.children(recursive=True))} - started


def runs_trial(process: psutil.Process) -> bool:
    """At this moment. Ray names the process after the class that `tune.with_resources` makes of the trainable, and after its method, which
    it has no name of between two trials."""
    try:
        return "".join(process.cmdline()[:1]).startswith("ray::ResourceTrainable.train")
    except psutil.NoSuchProcess:
        return False


def left_behind(root: Path, service: Service | None = None, *, seconds: float = 15.0) -> int:
    """Processes of a service that has ended, or of the jobs of `service`, which runs, after a moment for those that are about to end. All
    of them inherit its folder's name."""
    deadline = time.monotonic() + seconds
    while True:
        found = {process.pid for process in psutil.process_iter() if belongs(process, root)}
        left = len(found if service is None else found - service.own())
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.5)


def belongs(process: psutil.Process, root: Path) -> bool:
    """Whether the process is one of the service of this folder; those of other users are not looked into."""
    try:
        return process.environ().get("AUTOSLIM_ROOT") == str(root)
    except psutil.Error:
        return False
