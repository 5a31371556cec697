"""What every test finds: pytest's plugin of the processes that run tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
from helpers import fresh_stores, s3_server, shared_planner
from helpers.databases import fresh_postgres, postgres_server
from helpers.marks import CI_ONLY
from loopback.postgres import Postgres

from autoslim.core.urls import default_url

torch.set_num_threads(1)

# Examples are no slower to make on a busy machine for a reason that a test could find.
hypothesis.settings.register_profile("autoslim", suppress_health_check=[hypothesis.HealthCheck.too_slow], deadline=None)
hypothesis.settings.load_profile("autoslim")


@pytest.fixture(scope="session", autouse=True)
def _surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept between searches is kept between tests, and not in the home of whoever runs them. Drivers are as quick as the tests that
    run beside them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOSLIM_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("AUTOSLIM_NICENESS", "0")
        yield


@pytest.fixture(scope="session", autouse=True)
def _stores() -> Iterator[None]:
    """The tests of the migrations run them."""
    with fresh_stores.made_at_once():
        yield


@pytest.fixture(scope="session", autouse=True)
def _planners(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """All processes of a run share one template."""
    folder = tmp_path_factory.getbasetemp()
    with shared_planner.kept_in((folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "planners"):
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    with s3_server.s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket of an S3 server, whose address and credentials are in the environment."""
    for name, value in s3_server.environment(s3_endpoint).items():
        monkeypatch.setenv(name, value)
    return s3_server.make_bucket(s3_endpoint)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=CI_ONLY)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return default_url(tmp_path)
    return fresh_postgres(request.getfixturevalue("postgres"))
