from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from helpers.running_service import RunningService, running, settings_in


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """One for all tests, because a dry run takes seconds to import; every test has a tenant of its own."""
    folder = tmp_path_factory.mktemp("service")
    (folder / "data" / "flowers").mkdir(parents=True)
    settings = settings_in(folder, data_roots=[folder / "data"], datasets={"flowers": folder / "data" / "flowers"})
    with running(settings) as service:
        # From here on it is closed to whoever has no key.
        service.key()
        yield service


@pytest.fixture
def tenant(request: pytest.FixtureRequest) -> str:
    return f"t-{abs(hash(request.node.nodeid)):x}"[:60]


@pytest.fixture
def client(service: RunningService, tenant: str) -> Iterator[httpx.Client]:
    with service.client(tenant=tenant) as client:
        yield client


@pytest.fixture
def data_root(service: RunningService) -> Path:
    return service.settings.data_roots[0]
