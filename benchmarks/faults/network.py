"""A network between the service and its database that loses every packet: network namespaces, which need root."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from loopback.postgres import Postgres

from faults.case import Case, MissingError, Stage
from faults.leftovers import NAMESPACE
from faults.service import Service
from faults.surroundings import AWAY_SECONDS, others_meanwhile, postgres_server


@dataclasses.dataclass(frozen=True)
class Link:
    """A network between this namespace and another one, `name`; `number` is the network's."""

    name: str
    number: int

    @property
    def here(self) -> str:
        return f"10.213.{self.number}.1"

    @property
    def there(self) -> str:
        return f"10.213.{self.number}.2"

    @property
    def interface(self) -> str:
        return f"{self.name}-{self.number}"

    @property
    def _port(self) -> str:
        return f"port-{self.number}"

    @property
    def _bridge(self) -> str:
        return f"bridge-{self.number}"

    def make(self) -> None:
        _ip("link", "add", self.interface, "type", "veth", "peer", "name", self._port, "netns", self.name)
        _ip("address", "add", f"{self.here}/24", "dev", self.interface)
        _ip("link", "set", self.interface, "up")
        self._there("link", "add", "name", self._bridge, "type", "bridge")
        self._there("link", "set", self._port, "master", self._bridge, "up")
        self._there("address", "add", f"{self.there}/24", "dev", self._bridge)
        self._there("link", "set", self._bridge, "up")

    def lead_everywhere(self) -> None:
        """The other namespace sends to this one what is for any other address."""
        self._there("route", "add", "default", "via", self.here)

    def cut(self) -> None:
        """Nothing is refused or closed: packets do not arrive any more. Both ends keep their addresses and routes, as the port between is
        neither's."""
        self._there("link", "set", self._port, "down")

    def mend(self) -> None:
        self._there("link", "set", self._port, "up")

    def _there(self, *words: str) -> None:
        _ip("-netns", self.name, *words)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise MissingError(f"`ip {' '.join(words)}`: {done.stderr.strip()}")


@contextlib.contextmanager
def namespace() -> Iterator[str]:
    """A network of its own with loopback; deleting it deletes its interfaces and their other ends."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise MissingError("network namespaces need root and the command `ip` (Debian: iproute2)")
    name = f"{NAMESPACE}{os.getpid()}"
    _ip("netns", "add", name)
    try:
        _ip("-netns", name, "link", "set", "lo", "up")
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True)


class _Apart(Service):
    """In the namespace; the user reaches the API over one link, and the service its database over the other one."""

    address: str
    to_database: Link

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"


@contextlib.contextmanager
def _apart(folder: Path) -> Iterator[Service]:
    password = secrets.token_hex(16)
    with namespace() as name, postgres_server(password) as server:
        to_user, to_database = (Link(name, number) for number in (1, 2))
        for link in (to_user, to_database):
            link.make()
        _listen_there(server, to_database, password)
        storage = server.url("faults", password=password).replace("127.0.0.1", to_database.here)
        service = _Apart(
            folder,
            options=("--host", to_user.there, "--insecure"),
            environment={"AUTOSLIM_STORAGE": storage, "AUTOSLIM_ALLOWED_HOSTS": to_user.there},
            wrapper=("ip", "netns", "exec", name),
        )
        service.address, service.to_database = to_user.there, to_database
        with service.running():
            yield service


def _listen_there(server: Postgres, link: Link, password: str) -> None:
    """Starts the server again, for the link, too."""
    server.stop()
    with (server.folder / "data" / "pg_hba.conf").open("a") as access:
        access.write(f"host all all {link.there}/32 scram-sha-256\n")
    server.start(password=password, settings={"listen_addresses": f"127.0.0.1,{link.here}"})


def _partition(stage: Stage) -> str:
    assert isinstance(stage.service, _Apart)
    link = stage.service.to_database
    link.cut()
    # Not after what others are told: they may wait for their answers for as long as it lasts.
    mending = threading.Timer(AWAY_SECONDS, link.mend)
    mending.start()
    told = others_meanwhile(stage, AWAY_SECONDS)
    mending.join()
    return told


CASES = [Case(f"network to PostgreSQL cut for {AWAY_SECONDS:.0f} s", _partition, host=_apart, job="longer")]
