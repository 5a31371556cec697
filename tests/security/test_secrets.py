"""Passwords and keys are where they are needed and nowhere else: not in answers, logs, the store, a job's folder or other processes."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from helpers.databases import PASSWORD, fresh_postgres, postgres_server
from helpers.running_service import SPEC, RunningService, running
from loopback.postgres import Postgres

from autoslim.core.logs import JsonFormatter
from autoslim.service.settings import ServiceSettings
from autoslim.store import QueueState
from workers.service.settings import DriverSettings

TOKEN = "canary-of-the-cluster"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """All that the service writes, as it would write it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    loggers = [logging.getLogger(name) for name in ("autoslim", "uvicorn")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    yield stream
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


@pytest.fixture
def service(server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningService]:
    url = fresh_postgres(server)
    monkeypatch.setenv("AUTOSLIM_STORAGE", url)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", TOKEN)
    with running(ServiceSettings(storage=url, root=tmp_path / "root")) as service:
        yield service


def contents(service: RunningService) -> str:
    """Every value of every table."""
    engine = sa.create_engine(service.settings.storage)
    with engine.connect() as connection:
        tables = sa.MetaData()
        tables.reflect(connection)
        rows = [str(row) for table in tables.sorted_tables for row in connection.execute(sa.select(table))]
    engine.dispose()
    assert any("deit_tiny" in row for row in rows)
    return "\n".join(rows)


@pytest.mark.slow
@pytest.mark.short
def test_no_secret_is_where_it_does_not_belong(service: RunningService, log: io.StringIO, tmp_path: Path) -> None:
    key = service.key("read", "submit", tenant="t")
    secret = key.rpartition("_")[2] if key.count("_") == 2 else key.split("_", 2)[2]
    answers: list[httpx.Response] = []
    with service.anybody(headers={"Authorization": f"Bearer {key}"}) as client:
        job = client.post("/v1/jobs", json=SPEC)
        assert job.status_code == 201, job.text
        here = job.json()["links"]["self"]
        answers += [job, client.post("/v1/jobs", json=SPEC | {"storage": key, "data": key, "name": key, "sampler": PASSWORD[:3]})]
        answers += [
            client.get(path) for path in (here, f"{here}/events", f"{here}/front", "/readyz", "/metrics", "/v1/capabilities")
        ]
        answers += [client.get(f"/v1/jobs?page_token={key}"), client.get(f"/v1/jobs/{key}")]
        dry_runner = service.server._app.state.autoslim.dry_runner.planner
        environment = Path(f"/proc/{dry_runner.pid}/environ").read_bytes().decode()
    kept = contents(service) + "".join(
        str(path) + path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()
    )
    told = log.getvalue()
    assert '"path": "/v1/jobs"' in told
    for canary in (PASSWORD, TOKEN):
        assert canary not in "".join(answer.text + str(answer.headers) for answer in answers)
    for canary in (PASSWORD, TOKEN, secret):
        assert canary not in kept
        assert canary not in told
        assert canary not in environment
    assert "PATH=" in environment


@pytest.mark.slow
def test_a_database_that_is_down_is_told_without_its_address(
    service: RunningService, server: Postgres, log: io.StringIO, tmp_path: Path
) -> None:
    key = service.key("read", tenant="t")
    server.stop("immediate")
    try:
        with service.anybody(headers={"Authorization": f"Bearer {key}"}) as client:
            answers = [client.get(path) for path in ("/v1/jobs", "/readyz", "/metrics")]
    finally:
        server.start(password=PASSWORD, settings={"fsync": "off", "max_connections": "200"})
    assert {answer.status_code for answer in answers} == {503}
    text = "".join(answer.text for answer in answers)
    assert PASSWORD not in text + log.getvalue()
    assert "postgresql" not in text
    assert "the store cannot be reached" in log.getvalue()


@pytest.mark.cluster
def test_a_whole_search_leaves_no_secret_behind(service: RunningService, tmp_path: Path) -> None:
    """A driver as the supervisor starts it: the store's password reaches it by its environment, and goes nowhere from there."""
    job = service.put("t", trials=1, epochs=0.2, base_epochs=0.2, space="smoke", speed=[])
    claim = service.queue.claim("supervisor", 600)
    assert claim is not None
    tracking = tmp_path / "mlflow.db"
    settings = DriverSettings(storage=service.settings.storage, root=service.settings.root, tracking_uri=f"sqlite:///{tracking}")
    environment = os.environ | settings.environment(secrets=True) | {"RAY_AUTH_MODE": "disabled"}
    del environment["RAY_AUTH_TOKEN"]
    command = [sys.executable, "-m", "workers.service.attempt", job.id, "1"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert service.queue.get(job.id).state is QueueState.SUCCEEDED, done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert tracking in files
    assert any(path.name == "attempt-1.log" for path in files)
    for canary in (PASSWORD, TOKEN):
        assert canary not in done.stdout + done.stderr
        assert canary not in contents(service)
        assert not [path for path in files if canary.encode() in path.read_bytes()]
