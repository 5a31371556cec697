from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from helpers.running_service import RunningService, running, settings_in


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """With roots for data and models, and closed to whoever has no key."""
    folder = tmp_path_factory.mktemp("hostile")
    for name in ("data", "models", "outside"):
        (folder / name).mkdir()
    settings = settings_in(folder, data_roots=[folder / "data"], model_roots=[folder / "models"])
    with running(settings) as service:
        service.key()
        yield service


@pytest.fixture
def outside(service: RunningService) -> Path:
    """A folder that no root covers."""
    return service.settings.root.parent / "outside"


@pytest.fixture
def tenant(request: pytest.FixtureRequest) -> str:
    return f"t-{abs(hash(request.node.nodeid)):x}"[:60]


@pytest.fixture
def client(service: RunningService, tenant: str) -> Iterator[httpx.Client]:
    with service.client(tenant=tenant) as client:
        yield client
