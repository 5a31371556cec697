"""Artifacts of a search whose output lies in a store go there, where the client of MLflow decides."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from autoslim.report.tracking.places import artifacts_beside, default_tracking_uri
from autoslim.storage import StorageUri, look

DATABASE = "postgresql://autoslim@db/mlflow"


@pytest.mark.parametrize(
    ("output", "artifacts"),
    [
        ("s3://bucket/run", "s3://bucket/run/mlartifacts"),
        ("gs://bucket/run", "gs://bucket/run/mlartifacts"),
        ("az://container/run", "wasbs://container@photos.blob.core.windows.net/run/mlartifacts"),
        ("file:///mnt/run", "file:///mnt/run/mlartifacts"),
        (None, "file:///data/run/mlartifacts"),
    ],
)
def test_of_a_database_that_all_machines_see_they_are_at_the_output(
    output: str | None, artifacts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "photos")
    assert artifacts_beside(DATABASE, "/data/run", output_uri=output) == artifacts


def test_a_server_decides_by_itself() -> None:
    assert artifacts_beside("http://mlflow:5000", "/data/run", output_uri="s3://bucket/run") is None


def test_of_the_drivers_own_database_they_are_beside_it() -> None:
    assert (
        artifacts_beside(default_tracking_uri("/data/run"), "/data/run", output_uri="s3://bucket/run")
        == "file:///data/run/mlartifacts"
    )


@pytest.mark.slow
@pytest.mark.short
def test_mlflow_writes_them_to_an_s3_server(bucket: str, tmp_path: Path) -> None:
    client = MlflowClient(tracking_uri=default_tracking_uri(tmp_path))
    place = artifacts_beside(DATABASE, str(tmp_path), output_uri=f"s3://{bucket}/run")
    run = client.create_run(client.create_experiment("flowers", artifact_location=place))
    (tmp_path / "front.html").write_text("front")
    client.log_artifact(run.info.run_id, str(tmp_path / "front.html"))
    (file,) = look(StorageUri.parse(f"s3://{bucket}/run/mlartifacts")).files
    assert file.name == f"{run.info.run_id}/artifacts/front.html"
