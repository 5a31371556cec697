"""`Installation`: its programs, their commands, ports and secrets, and how each is checked."""

from __future__ import annotations

import dataclasses
import functools
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

from autoslim.store import Keys, Scope
from loopback.postgres import USER, Postgres, find_binaries, unprivileged_user
from loopback.ray_nodes import RayNodes, cpus
from workers.service.background_program import Program
from workers.service.program_group import Member, ProgramGroup
from workers.service.settings import DriverSettings

_AUTOSLIM = (sys.executable, "-m", "autoslim.cli")
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

    @functools.cached_property
    def programs(self) -> ProgramGroup:
        """One object: it knows a start of its own from another process's."""
        return ProgramGroup(self.folder, self._members(), logs=self.logs, say=self.say)

    @property
    def logs(self) -> Path:
        return self.folder / "programs"

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
        return RayNodes(self.logs, port=self.port + 4, token=self._secret("ray_token"), python=sys.executable)

    @property
    def settings(self) -> DriverSettings:
        return DriverSettings(
            storage=self.postgres.url("autoslim"), root=self.folder / "root", tracking_uri=self.mlflow, address="auto"
        )

    def _secret(self, name: str) -> Path:
        return self.folder / "secrets" / name

    def _program(self, name: str) -> Program:
        return Program(name, self.logs)

    def _database_folder(self) -> Path:
        """As root the database belongs to another user, who usually cannot enter root's folders; it is in /var/tmp then."""
        folder = self.folder / "postgres"
        user = unprivileged_user()
        if user is None or _may_enter(user, self.folder):
            return folder
        elsewhere = self.folder / "postgres.path"
        if not elsewhere.exists():
            elsewhere.parent.mkdir(parents=True, exist_ok=True)
            elsewhere.write_text(tempfile.mkdtemp(prefix="autoslim-postgres-", dir="/var/tmp"))  # nosec B108
        return Path(elsewhere.read_text())

    def start(self) -> str | None:
        """Starts all programs. Returns a new API key where there was none.

        Raises:
            RuntimeError: where one is alive or a port is taken; with the end of the log of the program that does not answer.
        """
        self.programs.refuse_second_start()
        self._refuse_taken_ports()
        self.programs.claim()
        self._make_secrets()
        self.programs.start(last="ray-worker")
        key = self._make_key()
        self.programs.start(first="api")
        return key

    def _members(self) -> list[Member]:
        """The supervisor ends first, so that it does not count jobs as lost, and the database last."""
        return [
            Member(
                name="postgres",
                title="PostgreSQL",
                start=self._start_postgres,
                # Looked up when it is used: where no server is installed, `postgres` raises.
                is_alive=lambda: self.postgres.is_running(),
                stop=lambda: self.postgres.stop(),
            ),
            self._member("mlflow", "MLflow", self._start_mlflow, needs="postgres"),
            dataclasses.replace(self._member("ray-head", "Ray, head", self._start_head), stop=self.ray.stop),
            self._member("ray-worker", "Ray, worker", self._start_worker, needs="ray-head", ends_with_it=True),
            self._member("api", "API", self._start_api, needs="postgres"),
            self._member("supervisor", "supervisor", self._start_supervisor, needs="postgres"),
        ]

    def _member(
        self, name: str, title: str, start: Callable[[], None], *, needs: str | None = None, ends_with_it: bool = False
    ) -> Member:
        program = self._program(name)
        return Member(
            name=name,
            title=title,
            start=start,
            is_alive=program.is_alive,
            stop=program.stop,
            needs=needs,
            ends_with_it=ends_with_it,
        )

    def _start_postgres(self) -> None:
        password = self._secret("postgres_password").read_text().strip()
        self.postgres.start(password=password)
        for database in ("autoslim", "mlflow"):
            self.postgres.create_database(database, password=password)

    def _start_mlflow(self) -> None:
        destination = self.artifacts or str(self.folder / "artifacts")
        command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={self.port + 1}", "--workers=1"]
        command += [f"--backend-store-uri={self.postgres.url('mlflow')}", f"--artifacts-destination={destination}"]
        program = self._program("mlflow")
        program.start(command, {**self._passwords(), **_MLFLOW})
        program.wait_until(lambda: _answers(f"{self.mlflow}/health"))

    def _start_head(self) -> None:
        self.ray.start_head()
        self.ray.head.wait_until(lambda: self.ray.nodes() == 1)

    def _start_worker(self) -> None:
        # A node that was killed may be counted still.
        former = self.ray.ids()
        worker = self.ray.start_worker(self._driver_environment(), cpus=cpus())
        self.ray.worker.wait_until(lambda: bool(self.ray.ids() - former))
        self.ray.let_give_way(worker)

    def _start_api(self) -> None:
        api = self._program("api")
        api.start([*_AUTOSLIM, "serve", "--no-supervisor", f"--port={self.port}"], self._service_environment())
        api.wait_until(lambda: _answers(f"{self.api}/healthz"))

    def _start_supervisor(self) -> None:
        supervisor = self._program("supervisor")
        options = ["supervise", f"--dashboard={self.ray.dashboard}", f"--jobs={self.jobs}", "--address=auto"]
        supervisor.start([*_AUTOSLIM, *options], self._service_environment())
        # It has no port to probe; a supervisor that cannot work exits within a moment.
        time.sleep(3.0)
        supervisor.wait_until(lambda: True)

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
        with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310 - http, of our own address  # nosec B310
            return bool(reply.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def _may_enter(user: str, folder: Path) -> bool:
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    return subprocess.run(["test", "-x", str(nearest)], user=user, check=False).returncode == 0  # noqa: S607  # nosec B607
