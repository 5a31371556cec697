from pathlib import Path

import pytest
from helpers.sample_search import fill, make_job, make_result

from autoslim.core.result import ErrorClass, TrialState
from autoslim.core.urls import default_url
from autoslim.report.tracking import default_tracking_uri
from autoslim.store import Store


def pytest_collection_modifyitems(items):
    # MLflow 3.17 asks SQLAlchemy 2.1 for a loader that is on its way out, once, at import.
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A working directory in which nothing may appear."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """Creating MLflow's tables takes a second; one empty database is copied for every test."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}")
    return path


@pytest.fixture
def output(tmp_path, empty_database):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    return folder


@pytest.fixture
def store(output):
    with Store(default_url(output)) as store:
        yield store


@pytest.fixture
def job(store, output):
    """A search of four trials: the first two complete, one failed, one still running."""
    job = make_job(str(output))
    failed = make_result(2, TrialState.FAILED, error_class=ErrorClass.DIVERGED, error="the loss is nan")
    fill(store, job, [make_result(0), make_result(1), failed, make_result(3, TrialState.RUNNING)])
    return job


@pytest.fixture
def client(output):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=default_tracking_uri(output))
