"""Models in MLflow's registry: one version a model, an alias a budget, nothing pickled."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from helpers.sample_search import make_job

from autoslim.report.tracking.registry import alias_of, find_candidate, register

JOB = make_job()
NAMED = make_job(name="digits")
KEPT = Path(__file__).parents[2] / "artifacts" / "format-1" / "sit"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = shutil.copytree(KEPT, tmp_path / "50%")
    (folder / "model.onnx").write_bytes(b"a graph")
    (folder / "SHA256SUMS").write_text("sums")
    return folder


@pytest.fixture
def client(tmp_path: Path, empty_database: Path):
    from mlflow import MlflowClient

    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")


@pytest.fixture
def run_id(client, tmp_path: Path) -> str:
    experiment = client.create_experiment("x", artifact_location=(tmp_path / "artifacts").as_uri())
    return client.create_run(experiment).info.run_id


def candidate(folder: Path, label: str):
    found = find_candidate(folder, label)
    assert found is not None
    return found


@pytest.mark.slow
@pytest.mark.short
def test_a_folder_is_registered_once_and_its_budgets_alias_stands_at_it(folder: Path, client, run_id: str):
    versions = {register(client, JOB, candidate(folder, "50%"), run_id=run_id) for _ in range(2)}
    assert versions == {"1"}
    found = client.get_model_version_by_alias("digits-1", "50pct")
    assert (str(found.version), found.run_id, found.tags["method"], found.tags["budget"]) == ("1", run_id, "sit", "50%")


@pytest.mark.slow
@pytest.mark.short
def test_a_folder_that_was_made_anew_is_a_new_version(folder: Path, client, run_id: str):
    register(client, JOB, candidate(folder, "50%"), run_id=run_id)
    with (folder / "model.safetensors").open("ab") as weights:
        weights.write(b"other weights")
    (folder / "model.onnx").write_bytes(b"another graph")
    assert register(client, JOB, candidate(folder, "50%"), run_id=run_id) == "2"
    assert str(client.get_model_version_by_alias("digits-1", "50pct").version) == "2"
    graphs = [
        (
            Path(client.get_model_version("digits-1", version).source.removeprefix("file://")) / "artifacts" / "model.onnx"
        ).read_bytes()
        for version in ("1", "2")
    ]
    assert graphs == [b"a graph", b"another graph"]


@pytest.mark.slow
@pytest.mark.short
def test_what_was_measured_beside_the_weights_makes_no_new_version(folder: Path, client, run_id: str):
    register(client, JOB, candidate(folder, "50%"), run_id=run_id)
    (folder / "SHA256SUMS").write_text("other sums, because a card was written anew")
    assert register(client, JOB, candidate(folder, "70%"), run_id=run_id) == "1"
    assert str(client.get_model_version_by_alias("digits-1", "70pct").version) == "1"


@pytest.mark.slow
@pytest.mark.short
def test_what_is_logged_is_code_and_onnx_and_no_pickle(folder: Path, client, run_id: str, tmp_path: Path):
    register(client, JOB, candidate(folder, "2.3G"), run_id=run_id)
    (logged,) = (tmp_path / "artifacts" / run_id / "artifacts").glob("model-*")
    files = {path.relative_to(logged).as_posix() for path in logged.rglob("*") if path.is_file()}
    assert {"MLmodel", "served_model.py", "artifacts/model.onnx", "artifacts/config.json"} <= files
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".pt", ".pth"))]
    flavour = yaml.safe_load((logged / "MLmodel").read_text())["flavors"]["python_function"]
    assert Path(flavour["model_code_path"]).name == "served_model.py"
    assert str(client.get_model_version_by_alias("digits-1", "2-3G").version) == "1"


@pytest.mark.slow
@pytest.mark.short
def test_a_model_may_lie_in_a_folder_whose_name_means_something_in_a_url(folder: Path, client, run_id: str, tmp_path: Path):
    (tmp_path / "a%20b?").mkdir()
    odd = folder.rename(tmp_path / "a%20b?" / "50%")
    assert register(client, JOB, candidate(odd, "50%"), run_id=run_id) == "1"
    (graph,) = (tmp_path / "artifacts").rglob("model.onnx")
    assert graph.read_bytes() == b"a graph"


@pytest.mark.slow
def test_searches_of_one_name_share_a_registered_model(folder: Path, client, run_id: str):
    assert register(client, NAMED, candidate(folder, "50%"), run_id=run_id) == "1"
    other = client.create_run(client.get_run(run_id).info.experiment_id).info.run_id
    assert register(client, NAMED.replace(id="digits-2"), candidate(folder, "50%"), run_id=other) == "2"
    jobs = {alias: client.get_model_version_by_alias("digits", alias).tags["job"] for alias in ("50pct", "digits-1-50pct")}
    assert jobs == {"50pct": "digits-2", "digits-1-50pct": "digits-1"}
    assert [model.name for model in client.search_registered_models()] == ["digits"]


@pytest.mark.slow
def test_a_registered_model_of_somebody_else_is_left_alone(folder: Path, client, run_id: str):
    client.create_registered_model("digits")
    register(client, NAMED, candidate(folder, "50%"), run_id=run_id)
    assert client.get_registered_model("digits").aliases == {}
    assert str(client.get_model_version_by_alias("digits-1", "50pct").version) == "1"


@pytest.mark.slow
@pytest.mark.short
def test_a_version_has_a_signature_and_an_example_of_its_input(folder: Path, client, run_id: str, tmp_path: Path):
    from mlflow.models import Model

    register(client, JOB, candidate(folder, "50%"), run_id=run_id)
    (logged,) = (tmp_path / "artifacts" / run_id / "artifacts").glob("model-*")
    model = Model.load(str(logged))
    assert [spec.shape for spec in model.signature.inputs] == [(-1, 3, 16, 16)]
    assert [spec.shape for spec in model.signature.outputs] == [(-1, 10)]
    example = model.load_input_example(str(logged))
    assert (example.shape, str(example.dtype)) == ((1, 3, 16, 16), "float32")


@pytest.mark.parametrize("missing", ["SHA256SUMS", "model.onnx"])
def test_a_folder_that_is_not_finished_or_has_no_graph_is_no_candidate(folder: Path, missing: str):
    (folder / missing).unlink()
    assert find_candidate(folder, "50%") is None


@pytest.mark.parametrize(("label", "alias"), [("70%", "70pct"), ("2.3G", "2-3G"), ("0.5%", "0-5pct"), ("900M", "900M")])
def test_labels_become_aliases(label: str, alias: str):
    assert alias_of(label) == alias
