"""`Installation`: its programs, the order in which they start, their files, and how each is checked."""

from __future__ import annotations

import dataclasses
import os
import secrets
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from autoslim.store import Keys, Scope
from loopback.postgres import USER, Postgres, find_binaries, unprivileged_user
from loopback.ray_nodes import RayNodes, cpus
from workers.service.background_program import Program
from workers.service.settings import DriverSettings

NEEDS = {
    "postgres": None,
    "mlflow": "postgres",
    "ray-head": None,
    "ray-worker": "ray-head",
    "api": "postgres",
    "supervisor": "postgres",
}
"""What a program cannot start without, in the order in which they start."""

_AUTOSLIM = (sys.executable, "-m", "autoslim.cli")
# For a program to answer: on a busy machine Ray alone takes one minute.
_START_SECONDS = 240.0
_MLFLOW = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclasses.dataclass(frozen=True)
class Installation:
    """`folder` keeps all data between starts. `port` is the API's; the next fourteen ports are used as well.

    `artifacts` is MLflow's artifact store: a folder, or an S3 address with credentials and endpoint in the environment
    (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, MLFLOW_S3_ENDPOINT_URL).
    """

    folder: Path
    port: int = 8400
    artifacts: str | None = None
    jobs: int = 1
    say: Callable[[str], None] = print
    _token: str = dataclasses.field(default_factory=lambda: secrets.token_hex(8))

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def mlflow(self) -> str:
        return f"http://127.0.0.1:{self.port + 1}"

    @property
    def postgres(self) -> Postgres:
        binaries = find_binaries()
        if binaries is None:
            raise RuntimeError("no PostgreSQL server is installed; on Debian: apt install postgresql")
        return Postgres(self._database_folder(), port=self.port + 2, binaries=binaries)

    @property
    def ray(self) -> RayNodes:
        return RayNodes(self._programs, port=self.port + 4, token=self._secret("ray_token"), python=sys.executable)

    @property
    def settings(self) -> DriverSettings:
        return DriverSettings(
            storage=self.postgres.url("autoslim"), root=self.folder / "root", tracking_uri=self.mlflow, address="auto"
        )

    @property
    def _programs(self) -> Path:
        return self.folder / "programs"

    def _secret(self, name: str) -> Path:
        return self.folder / "secrets" / name

    def _program(self, name: str) -> Program:
        return Program(name, self._programs)

    def _database_folder(self) -> Path:
        """As root the database belongs to another user, who usually cannot enter root's folders; it is in /var/tmp then."""
        folder = self.folder / "postgres"
        user = unprivileged_user()
        if user is None or _may_enter(user, self.folder):
            return folder
        elsewhere = self.folder / "postgres.path"
        if not elsewhere.exists():
            elsewhere.parent.mkdir(parents=True, exist_ok=True)
            elsewhere.write_text(tempfile.mkdtemp(prefix="autoslim-postgres-", dir="/var/tmp"))
        return Path(elsewhere.read_text())

    def start(self) -> str | None:
        """Starts one program after the other, each when the one before it answers. Returns a new API key where there was none.

        Raises:
            RuntimeError: with the end of the log of the program that does not answer.
        """
        if running := self.running():
            raise RuntimeError(f"this installation runs already ({', '.join(running)}); stop it first")
        self._refuse_taken_ports()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._wanted.write_text(self._token)
        self._make_secrets()
        self._start_postgres()
        self._start_mlflow()
        self._start_ray()
        key = self._make_key()
        self._start_api()
        self._start_supervisor()
        return key

    def revive(self, name: str) -> None:
        """Starts a program again that has exited, and what cannot live without it: a Ray worker ends with its head.

        Raises:
            RuntimeError: as `start` does.
        """
        starts = {
            "postgres": self._start_postgres,
            "mlflow": self._start_mlflow,
            "ray-head": self._start_ray,
            "ray-worker": self._start_worker,
            "api": self._start_api,
            "supervisor": self._start_supervisor,
        }
        if name == "ray-head":
            self.ray.stop()
        elif name != "postgres":
            # What is left of its session, such as trials without their node.
            self._program(name).stop()
        starts[name]()

    @property
    def wanted(self) -> bool:
        """Whether nobody has stopped the installation since this process started it."""
        return self._wanted.exists() and not self.replaced

    @property
    def replaced(self) -> bool:
        """Whether another process has started the installation since this one did."""
        return self._wanted.exists() and self._wanted.read_text() != self._token

    @property
    def _wanted(self) -> Path:
        """A file with the token of the process that has started the installation; `stop` removes it."""
        return self.folder / "wanted"

    def _start_postgres(self) -> None:
        password = self._secret("postgres_password").read_text().strip()
        self.say("PostgreSQL ...")
        self.postgres.start(password=password)
        for database in ("autoslim", "mlflow"):
            self.postgres.create_database(database, password=password)

    def _start_mlflow(self) -> None:
        self.say("MLflow ...")
        destination = self.artifacts or str(self.folder / "artifacts")
        command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={self.port + 1}", "--workers=1"]
        command += [f"--backend-store-uri={self.postgres.url('mlflow')}", f"--artifacts-destination={destination}"]
        program = self._program("mlflow")
        program.start(command, {**self._passwords(), **_MLFLOW})
        self._await(program, lambda: _answers(f"{self.mlflow}/health"))

    def _start_ray(self) -> None:
        self.say("Ray, head ...")
        self.ray.start_head()
        self._await(self.ray.head, lambda: self.ray.nodes() == 1)
        self._start_worker()

    def _start_worker(self) -> None:
        self.say("Ray, worker ...")
        worker = self.ray.start_worker(self._driver_environment(), cpus=cpus())
        self._await(self.ray.worker, lambda: self.ray.nodes() == 2)
        self.ray.let_give_way(worker)

    def _start_api(self) -> None:
        self.say("API ...")
        api = self._program("api")
        api.start([*_AUTOSLIM, "serve", "--no-supervisor", f"--port={self.port}"], self._service_environment())
        self._await(api, lambda: _answers(f"{self.api}/healthz"))

    def _start_supervisor(self) -> None:
        self.say("supervisor ...")
        supervisor = self._program("supervisor")
        options = ["supervise", f"--dashboard={self.ray.dashboard}", f"--jobs={self.jobs}", "--address=auto"]
        supervisor.start([*_AUTOSLIM, *options], self._service_environment())
        # It has no port to probe; a supervisor that cannot work exits within a moment.
        time.sleep(3.0)
        self._await(supervisor, lambda: True)

    def _await(self, program: Program, is_ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            if not program.is_alive():
                raise RuntimeError(f"{program.name} has exited; the end of {program.log}:\n{program.tail()}")
            if is_ready():
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{program.name} does not answer; the end of {program.log}:\n{program.tail()}")
            time.sleep(0.5)

    def running(self) -> list[str]:
        found = [program.name for program in self._all() if program.is_alive()]
        return found + (["postgres"] if self.postgres.is_running() else [])

    def stop(self) -> None:
        """In reverse order: the supervisor first, so that it does not count jobs as lost, and the database last."""
        # Before anything ends: the process in the foreground must not start it again.
        self._wanted.unlink(missing_ok=True)
        # That process stops the installation, too, as soon as it sees it; the second of both finds nothing that runs.
        with FileLock(self.folder / "stop.lock"):
            for program in self._all():
                program.stop()
            self.ray.stop()
            self.postgres.stop()

    def _all(self) -> list[Program]:
        names = ("supervisor", "api", "ray-worker", "ray-head", "mlflow")
        return [self._program(name) for name in names]

    def _make_secrets(self) -> None:
        folder = self.folder / "secrets"
        folder.mkdir(mode=0o700, exist_ok=True)
        for name in ("ray_token", "postgres_password"):
            if not self._secret(name).exists():
                _write_secret(self._secret(name), secrets.token_hex(32))
        password = self._secret("postgres_password").read_text().strip()
        _write_secret(self._secret("pgpass"), f"127.0.0.1:{self.port + 2}:*:{USER}:{password}\n")

    def _passwords(self) -> dict[str, str]:
        """The database's URLs have no password; libpq finds it in this file."""
        return {"PGPASSFILE": str(self._secret("pgpass"))}

    def for_operators(self) -> str:
        """The environment of `autoslim keys`, as assignments for a shell."""
        variables = {**self._passwords(), "AUTOSLIM_STORAGE": self.settings.storage}
        return " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())

    def _driver_environment(self) -> dict[str, str]:
        return {**self.settings.environment(secrets=True), **self._passwords()}

    def _service_environment(self) -> dict[str, str]:
        """Of the API and the supervisor."""
        return {
            **self._driver_environment(),
            **self.ray.environment,
            "AUTOSLIM_MLFLOW_URL": self.mlflow,
            "AUTOSLIM_RAY_DASHBOARD_URL": self.ray.dashboard,
            "AUTOSLIM_KEYS_REQUIRED": "true",
        }

    def _make_key(self) -> str | None:
        os.environ.update(self._passwords())
        self.settings.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with Keys(self.settings.storage) as keys:
            if keys.count_usable():
                return None
            return keys.create(tenant="local", scopes=list(Scope), name="the installation's first key")[1]

    def _refuse_taken_ports(self) -> None:
        for port in range(self.port, self.port + 15):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    last = self.port + 14
                    raise RuntimeError(
                        f"port {port} is in use; choose another --port with {last - self.port + 1} free ports"
                    ) from None


def _write_secret(path: Path, text: str) -> None:
    """Created with mode 600, so that no other user can read it at any time."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310 - http, of our own address
            return bool(reply.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def _may_enter(user: str, folder: Path) -> bool:
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    return subprocess.run(["test", "-x", str(nearest)], user=user, check=False).returncode == 0  # noqa: S607
