"""A private PostgreSQL server from the system package's binaries, on loopback, with a password."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_PACKAGED = Path("/usr/lib/postgresql")
USER = "autoslim"


def find_binaries() -> Path | None:
    """The folder with the programs of the newest server; None where no server is installed."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    versions = [found.parent for found in _PACKAGED.glob("*/bin/initdb")]
    return max(versions, key=lambda folder: float(folder.parent.name), default=None)


class Postgres:
    """`folder` belongs to the server. As root it runs as the user `postgres` or `nobody`, since PostgreSQL refuses root."""

    def __init__(self, folder: Path, *, port: int, binaries: Path) -> None:
        self.folder, self.port, self._binaries = folder, port, binaries
        self._data = folder / "data"
        self._user = unprivileged_user()

    def url(self, database: str, *, password: str | None = None) -> str:
        """For SQLAlchemy. Without a password, libpq looks for it in the file that PGPASSFILE names."""
        login = USER if password is None else f"{USER}:{password}"
        return f"postgresql+psycopg://{login}@127.0.0.1:{self.port}/{database}"

    def start(self, *, password: str, settings: Mapping[str, str] | None = None) -> None:
        """Initialises the folder where it is empty, and returns when the server answers.

        Raises:
            RuntimeError: with the server's output, when it does not start.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._user is not None:
            shutil.chown(self.folder, self._user, pwd.getpwnam(self._user).pw_gid)
        if not (self._data / "PG_VERSION").exists():
            self._initialise(password)
        # No Unix socket: the folder's path may be longer than a socket's may be.
        options = {"listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": ""}
        arguments = " ".join(f"-c {name}={value}" for name, value in {**options, **(settings or {})}.items())
        self._run(["pg_ctl", "start", "-w", "-t", "60", "-D", str(self._data), "-l", str(self.folder / "log"), "-o", arguments])

    def stop(self, mode: str = "fast") -> None:
        """`fast` closes connections and shuts down; `immediate` is like a crash. Does nothing for a stopped server."""
        if self.is_running():
            self._run(["pg_ctl", "stop", "-w", "-m", mode, "-D", str(self._data)])

    def is_running(self) -> bool:
        """Whether `pg_ctl` reports it as running."""
        return (self._data / "postmaster.pid").exists() and self._ask("pg_ctl", "status", "-D", str(self._data))

    def create_database(self, name: str, *, password: str) -> None:
        """Does nothing for a database that exists."""
        try:
            self._run(["createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, name], PGPASSWORD=password)
        except RuntimeError as error:
            if "already exists" not in str(error):
                raise

    def _initialise(self, password: str) -> None:
        secret = self.folder / "password"
        secret.touch(mode=0o600)
        if self._user is not None:
            shutil.chown(secret, self._user)
        secret.write_text(password + "\n")
        try:
            options = ["--username", USER, "--pwfile", str(secret), "--encoding", "UTF8", "--locale", "C.UTF-8"]
            self._run(["initdb", "-D", str(self._data), "--auth", "scram-sha-256", *options])
        finally:
            secret.unlink()

    def _ask(self, *command: str) -> bool:
        try:
            self._run(command)
        except RuntimeError:
            return False
        return True

    def _run(self, command: Sequence[str], **environment: str) -> str:
        program = str(self._binaries / command[0])
        group = None if self._user is None else pwd.getpwnam(self._user).pw_gid
        # A file and no pipe: the server inherits the stream, and a pipe would not close as long as it runs.
        output = self.folder / f".{command[0]}.out"
        with output.open("w+") as stream:
            done = subprocess.run(
                [program, *command[1:]],
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                env={**os.environ, **environment},
                user=self._user,
                group=group,
                extra_groups=None if self._user is None else [],
            )
            stream.seek(0)
            text = stream.read()
        if done.returncode != 0:
            log = self.folder / "log"
            tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            raise RuntimeError(f"{command[0]} of {self._binaries} ended with {done.returncode}: {text.strip()}\n{tail}")
        return text


def unprivileged_user() -> str | None:
    """The user that the server runs as; None for the current one, where that is not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise RuntimeError(
        "PostgreSQL does not run as root, and there is no user postgres or nobody; create one, or use another account"
    )
