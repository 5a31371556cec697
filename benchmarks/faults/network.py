"""A network between the service and its database that loses every packet: network namespaces, which need root."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import psutil
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


# A lease that the cut outlasts, however much of it is left then; the default one would cost the case a minute more.
_LEASE_SECONDS, _LONG_CUT_SECONDS = 20.0, 90.0
# Beyond the lease, for a driver's end on a busy machine.
_END_SECONDS = 5.0
# The service finds a connection dead after 8 s and no new one after 4 s.
_ANSWER_SECONDS = 15.0


@contextlib.contextmanager
def _apart(folder: Path, *, lease_seconds: float | None = None) -> Iterator[Service]:
    lease = {} if lease_seconds is None else {"AUTOSLIM_LEASE_SECONDS": f"{lease_seconds:g}"}
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
            environment={"AUTOSLIM_STORAGE": storage, "AUTOSLIM_ALLOWED_HOSTS": to_user.there, **lease},
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


def _long_partition(stage: Stage) -> str:
    """Raises TimeoutError where the driver outlives its lease, or readiness is answered late or with anything but 503."""
    assert isinstance(stage.service, _Apart)
    driver, link = stage.driver(), stage.service.to_database
    link.cut()
    began = time.monotonic()
    mending = threading.Timer(_LONG_CUT_SECONDS, link.mend)
    mending.start()
    try:
        told = _readiness(stage)
        left = began + _LEASE_SECONDS + _END_SECONDS - time.monotonic()
        try:
            driver.wait(timeout=max(left, 0.0))
        except psutil.TimeoutExpired:
            raise TimeoutError(
                f"the driver lives {_END_SECONDS:g} s after the end of its lease of {_LEASE_SECONDS:g} s"
            ) from None
        return f"{told}; the driver ended {time.monotonic() - began:.0f} s after the cut"
    finally:
        mending.join()


def _readiness(stage: Stage) -> str:
    began = time.monotonic()
    with httpx.Client(base_url=stage.service.url, timeout=_ANSWER_SECONDS, trust_env=False) as client:
        try:
            status = client.get("/readyz").status_code
        except httpx.TimeoutException:
            raise TimeoutError(f"/readyz has not answered within {_ANSWER_SECONDS:g} s of the cut") from None
    if status != 503:
        raise TimeoutError(f"/readyz answers {status} while the database is cut off, instead of 503")
    return f"readiness: 503 after {time.monotonic() - began:.0f} s"


CASES = [
    Case(f"network to PostgreSQL cut for {AWAY_SECONDS:.0f} s", _partition, host=_apart, job="longer"),
    Case(
        f"network to PostgreSQL cut for {_LONG_CUT_SECONDS:.0f} s, longer than a lease of {_LEASE_SECONDS:.0f} s",
        _long_partition,
        host=partial(_apart, lease_seconds=_LEASE_SECONDS),
        # The fault lasts, and a new driver starts after it.
        job="longest",
    ),
]
