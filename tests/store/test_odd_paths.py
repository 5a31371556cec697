"""Output folders whose names mean something in a URL."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from autoslim.core.urls import default_url, sqlite_file
from autoslim.report.tracking import default_tracking_uri
from autoslim.report.tracking.places import artifacts_beside
from autoslim.service.settings import ServiceSettings
from autoslim.store import Store

NAMES = ("a%20b", "what?", "a?b=c&d", "a b", "100%", "%2f", "ü#1", "a'b\"c")
each_name = pytest.mark.parametrize("name", NAMES)


@each_name
def test_the_store_lies_in_the_output_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    with Store(default_url(folder)):
        assert (folder / "autoslim.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert sqlite_file(default_url(folder)) == folder / "autoslim.db"
    assert ServiceSettings(root=folder).storage == default_url(folder)


@each_name
def test_mlflows_files_lie_beside_its_database(tmp_path: Path, name: str) -> None:
    uri = default_tracking_uri(tmp_path / name)
    assert sqlite_file(uri) == tmp_path / name / "mlflow.db"
    assert artifacts_beside(uri, "/elsewhere") == (tmp_path / name / "mlartifacts").as_uri()


@pytest.mark.slow
@pytest.mark.short
def test_mlflow_reads_such_a_name_as_the_store_does(tmp_path: Path) -> None:
    folder = tmp_path / "a%20b?"
    folder.mkdir()
    client = MlflowClient(tracking_uri=default_tracking_uri(folder))
    made = client.create_experiment("one", artifact_location=artifacts_beside(default_tracking_uri(folder), str(folder)))
    run = client.create_run(made)
    (tmp_path / "note.txt").write_text("note")
    client.log_artifact(run.info.run_id, str(tmp_path / "note.txt"))
    assert (folder / "mlflow.db").is_file()
    assert len(list((folder / "mlartifacts").rglob("note.txt"))) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a%20b?", "note.txt"]


@pytest.mark.parametrize("url", ["postgresql://host/db", "https://host", "sqlite://", "sqlite:///"])
def test_other_urls_name_no_file(url: str) -> None:
    assert sqlite_file(url) is None
