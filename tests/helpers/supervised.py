"""A supervisor whose drivers are real processes, with its own store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import shared_planner
from helpers.databases import nobody_writes

from autoslim.config import read_mapping
from autoslim.errors import UnavailableError
from autoslim.store import Queue, QueuedJob, QueueState
from workers.service.executor import Driver, DriverState
from workers.service.local_executor import LocalExecutor
from workers.service.process_identity import ProcessIdentity
from workers.service.settings import DriverSettings
from workers.service.supervisor import Supervisor

REAL = (sys.executable, "-m", "workers.service.attempt")
"""The driver with a real search."""

HERE = Path(__file__).parent
DRIVER = (sys.executable, str(HERE / "trivial_driver.py"))
SPEC = {"model": "deit_tiny_patch16_224", "weights": "scratch", "data": "digits", "flops": ["50%"], "trials": 4}


class Site:
    """`queue` is the test's own connection. `mischief` makes drivers misbehave until it is taken back."""

    def __init__(self, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *, lease: float = 30.0) -> None:
        self.settings = DriverSettings(storage=url, root=folder / "root", lease_seconds=lease, niceness=0)
        self.queue = Queue(url)
        self._mischief = folder / "mischief"
        self._executors: list[LocalExecutor] = []
        # Drivers inherit it.
        monkeypatch.setenv("AUTOSLIM_TEST_MISCHIEF", str(self._mischief))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE.parents[1]), str(HERE.parent), str(HERE)]))

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        """No driver outlives its test."""
        for path in (self.settings.root / "drivers").glob("*.json"):
            process = ProcessIdentity.from_json(path.read_text())
            # The number of one of another machine is somebody else's here.
            if process.is_here() and not process.is_dead():
                os.kill(process.pid, signal.SIGKILL)
        for executor in self._executors:
            for child in executor._children.values():
                child.wait()
        self.queue.close()

    def submit(self, **fields: object) -> QueuedJob:
        spec = read_mapping(SPEC | fields)
        return self.queue.submit(spec.model_dump_json(), tenant="me", name=spec.name, priority=spec.priority)[0]

    def mischief(self, what: str | None) -> None:
        if what is None:
            self._mischief.unlink()
        else:
            self._mischief.write_text(what)

    def supervisor(
        self, *, grace: float = 5.0, command: tuple[str, ...] = DRIVER, jobs: int = 1, executor: LocalExecutor | None = None
    ) -> Supervisor:
        executor = executor or LocalExecutor(self.settings, command=command, grace=grace)
        self._executors.append(executor)
        return Supervisor(self.queue, executor, max_drivers=jobs, lease_seconds=self.settings.lease_seconds, round_seconds=0.05)

    def drive(self, supervisor: Supervisor | None, until: Callable[[], bool], *, seconds: float = 60.0) -> None:
        """Rounds of the supervisor, or none where it is dead, until something is so."""
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, (
                f"in vain: {[(job.state, job.reason) for job in self.queue.list()]}\n{self.logs()}"
            )
            if supervisor is not None:
                supervisor.reconcile()
            time.sleep(0.05)

    def state(self, job: QueuedJob) -> QueueState:
        return self.queue.get(job.id).state

    def is_ended(self, *jobs: QueuedJob) -> Callable[[], bool]:
        return lambda: all(self.state(job).ended for job in jobs)

    def has_ended_trials(self, job: QueuedJob, count: int) -> Callable[[], bool]:
        return lambda: sum(event.type == "trial_ended" for event in self.queue.events(job.id)) >= count

    @contextmanager
    def held_after(self, trials: int, job: QueuedJob, supervisor: Supervisor | None = None) -> Iterator[None]:
        """The driver of a job that was just submitted has ended so many trials and stays in the next one, however slow the test is."""
        self.mischief(f"hold {trials}")
        self.drive(supervisor, lambda: (1, trials) in self.worked(job))
        yield
        self.mischief(None)

    def pid(self, job: QueuedJob, attempt: int = 1) -> int:
        return ProcessIdentity.from_json(
            (self.settings.root / "drivers" / f"{Driver(job.id, attempt).name}.json").read_text()
        ).pid

    def kill(self, job: QueuedJob, attempt: int = 1, number: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.pid(job, attempt), number)

    def freeze(self, job: QueuedJob) -> None:
        """Stops the driver between two transactions; within one it would keep the database's locks for as long as it is stopped."""
        while True:
            self.kill(job, number=signal.SIGSTOP)
            if nobody_writes(self.settings.storage):
                return
            self.kill(job, number=signal.SIGCONT)
            time.sleep(0.01)

    def worked(self, job: QueuedJob) -> list[tuple[int, int]]:
        """(attempt, trial) in the order in which they were begun."""
        path = self.settings.folder(job.id) / "worked"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(line.split()[0]), int(line.split()[1])) for line in lines]

    def logs(self) -> str:
        return "\n".join(f"== {path}\n{path.read_text()}" for path in sorted(self.settings.root.glob("jobs/*/logs/*")))


def supervisor_code(command: tuple[str, ...] = DRIVER, *, until_end_of: int | None = None) -> str:
    """A Python program: the supervisor, with drivers of this command."""
    return (
        "from workers.service.supervise import supervise; from workers.service.local_executor import LocalExecutor\n"
        "from workers.service.settings import read_driver_settings; from autoslim.core.logs import log_json\n"
        "settings = read_driver_settings(); log_json()\n"
        f"supervise(settings, LocalExecutor(settings, command={command!r}), round_seconds=0.05, until_end_of={until_end_of})"
    )


@contextmanager
def supervisor_process(site: Site, command: tuple[str, ...] = DRIVER) -> Iterator[subprocess.Popen[bytes]]:
    """A supervisor that can be killed."""
    with _python(site, supervisor_code(command)) as process:
        yield process


@contextmanager
def service_process(site: Site) -> Iterator[subprocess.Popen[bytes]]:
    """An API with its supervisor, as `autoslim serve` runs them; the drivers are trivial."""
    code = (
        "import sys; from autoslim.service.serve import serve; from autoslim.service.settings import ServiceSettings\n"
        f"from autoslim.service.dry_run import planner; planner.PROGRAM = {shared_planner.program()!r}\n"
        f"settings = ServiceSettings(storage={site.settings.storage!r}, root={str(site.settings.root)!r})\n"
        f"serve(settings, port=0, command=[sys.executable, '-c', {supervisor_code(until_end_of=0)!r}])"
    )
    with _python(site, code) as process:
        yield process


@contextmanager
def ray_supervisor_process(site: Site, dashboard: str) -> Iterator[subprocess.Popen[bytes]]:
    """The same for a Ray cluster; Ray reads how it is to log in when it is imported, so that this cannot be the test's own process."""
    code = (
        "import logging; from workers.service.supervise import choose_executor, supervise\n"
        "from workers.service.settings import read_driver_settings\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "settings = read_driver_settings()\n"
        f"supervise(settings, choose_executor(settings, dashboard={dashboard!r}))"
    )
    with _python(site, code) as process:
        yield process


@contextmanager
def _python(site: Site, code: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, **site.settings.environment(secrets=True)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class PlacingExecutor(LocalExecutor):
    """Like a Ray cluster: a driver waits until a node has room for it, and is given up after a while. `nodes` is set by the test."""

    unreachable_reason = "the cluster cannot be reached"

    def __init__(self, settings: DriverSettings, *, nodes: bool, command: tuple[str, ...] = DRIVER) -> None:
        super().__init__(settings, command=command, grace=5.0)
        self.nodes, self.reachable = nodes, True
        self.waiting: dict[Driver, DriverState] = {}

    def start(self, driver: Driver) -> None:
        self._reach()
        self.waiting.setdefault(driver, DriverState.PENDING)

    def list_drivers(self) -> dict[Driver, DriverState]:
        self._reach()
        if self.nodes:
            for driver in [driver for driver, state in self.waiting.items() if state is DriverState.PENDING]:
                del self.waiting[driver]
                super().start(driver)
        return super().list_drivers() | self.waiting

    def give_up(self) -> None:
        """Of the drivers that wait, as Ray does after fifteen minutes."""
        self.waiting = dict.fromkeys(self.waiting, DriverState.NEVER_SCHEDULED)

    def stop(self, driver: Driver) -> None:
        if driver in self.waiting:
            self.waiting[driver] = DriverState.NEVER_SCHEDULED
        else:
            super().stop(driver)

    def delete_record(self, driver: Driver) -> None:
        self.waiting.pop(driver, None)
        super().delete_record(driver)

    def _reach(self) -> None:
        if not self.reachable:
            raise UnavailableError("Ray at http://10.0.0.7:8265 cannot be used: refused")
