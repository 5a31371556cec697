from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
from helpers.driven_job import DrivenJob
from helpers.running_service import RunningService, running, settings_in

from autoslim.client import Client


@pytest.fixture(autouse=True)
def nobodys_settings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No address, key or configuration of whoever runs the tests."""
    for name in ("AUTOSLIM_URL", "AUTOSLIM_KEY", "AUTOSLIM_INSECURE", "AUTOSLIM_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second try comes at once."""
    monkeypatch.setattr("autoslim.client.retry._FIRST_DELAY", 0.0)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """One for all tests; every test has a tenant of its own."""
    with running(settings_in(tmp_path_factory.mktemp("service"))) as service:
        service.key()
        yield service


@pytest.fixture
def tenant(request: pytest.FixtureRequest) -> str:
    return f"t-{zlib.crc32(request.node.nodeid.encode()):x}"


@pytest.fixture
def client(service: RunningService, tenant: str) -> Iterator[Client]:
    with Client(service.url, service.key(tenant=tenant)) as client:
        yield client


@pytest.fixture
def driven(service: RunningService, tenant: str) -> DrivenJob:
    """A job that has begun."""
    return DrivenJob(service, service.put(tenant, name="digits", priority=9).id)
