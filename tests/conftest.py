"""One thread a process: the models are so small that several threads, on a machine with other work, take twenty times as long."""

import os
import re

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from helpers import s3_server
from helpers.databases import fresh_postgres, postgres_server
from helpers.marks import CI_ONLY
from loopback.postgres import Postgres

from autoslim.core.urls import default_url

# Its asserts are shown with their values, as those of a test file are.
pytest.register_assert_rewrite("helpers.method_contract")

# Examples are no slower to make on a busy machine for a reason that a test could find.
hypothesis.settings.register_profile("autoslim", suppress_health_check=[hypothesis.HealthCheck.too_slow], deadline=None)
hypothesis.settings.load_profile("autoslim")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file all of whose tests `-m` leaves out is not imported: schemathesis alone takes eight seconds of each process."""
    if collection_path.suffix != ".py" or "not slow" not in config.getoption("markexpr"):
        return None
    marks = re.search(
        r"^pytestmark = (CI_ONLY|pytest\.mark\.slow|\[\s*pytest\.mark\.slow)\b", collection_path.read_text(), re.MULTILINE
    )
    return True if marks else None


@pytest.fixture(scope="session", autouse=True)
def _cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept between searches is kept between tests, and not in the home of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOSLIM_CACHE", str(tmp_path_factory.mktemp("cache")))
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
