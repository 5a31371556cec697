"""One small search through Ray Tune, from the command line to everything that a user finds afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers.workers_command import SEARCH, Search

import autoslim
from autoslim.core.result import Phase, TrialState
from autoslim.core.urls import default_url
from autoslim.export.artifact import load_config
from autoslim.store import Store

pytestmark = [pytest.mark.cluster, pytest.mark.short, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Search]:
    output = tmp_path_factory.mktemp("search") / "run"
    short = ("--trials", "5", "--train-limit", "500", "--forms", "onnx")
    search = Search(*SEARCH, *short, "--concurrency", "2", "--output", str(output), "--json")
    assert search.end() == 0, search.text
    return output, search


def test_progress_names_job_trial_epoch_best_and_time_left(finished: tuple[Path, Search]) -> None:
    _, search = finished
    for text in ("job digits-", "trial 0 ", "epoch ", "best ", " left", "Ray dashboard: http://127.0.0.1:", "dense model: epoch"):
        assert text in search.text


def test_every_budget_has_a_model_within_it_that_the_card_describes(finished: tuple[Path, Search]) -> None:
    output, _ = finished
    for label, share in (("70%", 0.7), ("50%", 0.5)):
        folder = output / "models" / label
        config = load_config(folder)
        flops = autoslim.count_flops(autoslim.load(folder), config.shape.image_size)
        assert flops == config.flops.fvcore == config.flops.predicted <= config.flops.budget == int(share * config.flops.dense)
        card = (folder / "README.md").read_text()
        assert f"{config.flops.fvcore:,}" in card
        assert f"{100 * config.accuracy['test/slimmed']:.2f} (" in card
        assert "no_such" not in card


APART = """
import sys
for name in ("ray", "optuna", "mlflow"): sys.modules[name] = None
import torch, autoslim
from autoslim.cli import main
models = sys.argv[1]
torch.manual_seed(0)
print(autoslim.load(f"{models}/70%")(torch.randn(2, 3, 16, 16)).tolist())
sys.argv = ["autoslim", "evaluate", f"{models}/50%", "--data", "digits", "--json"]
main()
"""
"""Prints the logits of one model, and what `autoslim evaluate` says of another."""


@pytest.fixture(scope="module")
def said_apart(finished: tuple[Path, Search]) -> tuple[torch.Tensor, dict[str, Any]]:
    """By a new process in which no search package can be imported."""
    output, _ = finished
    run = subprocess.run([sys.executable, "-c", APART, str(output / "models")], capture_output=True, text=True, check=True)
    logits, evaluated = run.stdout.split("\n", 1)
    return torch.tensor(json.loads(logits)), json.loads(evaluated)


def test_the_cards_accuracy_is_that_of_the_folder_in_a_new_process(
    finished: tuple[Path, Search], said_apart: tuple[torch.Tensor, dict[str, Any]]
) -> None:
    card = load_config(finished[0] / "models" / "50%").accuracy["test/slimmed"]
    assert said_apart[1]["accuracy"] == pytest.approx(card)


def test_a_model_loads_with_equal_logits_where_no_search_package_can_be_imported(
    finished: tuple[Path, Search], said_apart: tuple[torch.Tensor, dict[str, Any]]
) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        expected = autoslim.load(finished[0] / "models" / "70%")(torch.randn(2, 3, 16, 16))
    assert torch.allclose(said_apart[0], expected, atol=1e-6)


def test_tables_have_a_row_a_trial_and_the_summary_compares_with_a_random_recipe(finished: tuple[Path, Search]) -> None:
    output, search = finished
    summary = json.loads(search.text[search.text.index("{\n") :])
    assert [model["label"] for model in summary["models"]] == ["70%", "50%"]
    assert set(summary["controls"]) == {"70%", "50%"}
    table = pq.read_table(output / "trials.parquet")
    assert table["number"].to_pylist() == [0, 1, 2, 3, 4]
    assert {"accuracy", "flops", "params", "seconds", "state", "error_class", "method"} <= set(table.column_names)
    assert pq.read_table(output / "front.parquet").num_rows >= 1
    assert "<svg" in (output / "front.html").read_text()
    page = (output / "report.html").read_text()
    assert "it is complete." in page
    assert "could not be drawn" not in page


def test_the_store_holds_each_trial_once_and_none_is_left_running(finished: tuple[Path, Search]) -> None:
    output, _ = finished
    with Store(default_url(output)) as store:
        (stored,) = store.jobs()
        results = store.trials(stored.job.id)
        for result in results:
            epochs = store.epochs(stored.job.id, result.number)
            assert epochs[-1].epoch == pytest.approx(2.0)
            assert {Phase.PRUNE, Phase.FINETUNE} <= {report.phase for report in epochs} <= {*Phase} - {Phase.ADAPT}
    assert [result.state for result in results] == [TrialState.COMPLETE] * 5
    assert len({result.recipe.method for result in results}) >= 3


def test_work_done_once_for_all_trials_is_recorded_with_the_job(finished: tuple[Path, Search]) -> None:
    output, _ = finished
    with Store(default_url(output)) as store:
        (stored,) = store.jobs()
        results = store.trials(stored.job.id)
    methods = [cost.method for cost in stored.shared]
    assert (methods.count("dense model"), methods.count("handing over")) == (1, 1)
    assert {"vit_slim", "patch_slimming"} & {result.recipe.method for result in results} <= set(methods)
    assert next(cost.epochs for cost in stored.shared if cost.method == "dense model") == stored.job.base.epochs
    assert all(cost.seconds > 0 for cost in stored.shared)


def test_mlflow_has_a_parent_and_a_child_for_every_trial(finished: tuple[Path, Search]) -> None:
    from mlflow import MlflowClient

    output, _ = finished
    client = MlflowClient(f"sqlite:///{output}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "autoslim"]
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    assert len(runs) == 6
    assert {file.path for file in client.list_artifacts(parents[0].info.run_id)} >= {"front.html", "front.parquet", "report.html"}
    assert any(run.data.tags.get("pareto") == "true" for run in runs)
    delivered = [run for run in runs if "selected_for" in run.data.tags]
    assert delivered
    for run in delivered:
        model, *pictures = [file.path for file in client.list_artifacts(run.info.run_id)]
        assert model.startswith("model-") and pictures == ["picture.html", "picture.png"]


def test_the_registrys_models_load_with_mlflow_alone_and_give_the_models_logits(finished: tuple[Path, Search]) -> None:
    output, _ = finished
    with Store(default_url(output)) as store:
        (stored,) = store.jobs()
    code = f"""
import os, sys
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
for name in ("autoslim", "workers", "torch", "timm"):
    sys.modules[name] = None
import mlflow, numpy
mlflow.set_tracking_uri("sqlite:///{output}/mlflow.db")
images = numpy.random.default_rng(0).standard_normal((2, 3, 16, 16), dtype=numpy.float32)
print(mlflow.pyfunc.load_model("models:/{stored.job.id}@50pct").predict(images).tolist())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    images = np.random.default_rng(0).standard_normal((2, 3, 16, 16), dtype=np.float32)
    with torch.no_grad():
        expected = autoslim.load(output / "models" / "50%")(torch.from_numpy(images))
    assert torch.allclose(torch.tensor(json.loads(run.stdout.splitlines()[-1])), expected, atol=1e-4)


def test_every_model_is_delivered_in_the_forms_that_were_asked_for_with_its_speed(finished: tuple[Path, Search]) -> None:
    output, _ = finished
    for label in ("70%", "50%"):
        folder = output / "models" / label
        config = load_config(folder)
        assert {form.file for form in config.forms} == {"model.onnx"}
        assert {form.flops for form in config.forms if form.name == "onnx"} == {config.flops.fvcore}
        assert config.speed is not None
        assert {timing.batch for timing in config.speed.timings if timing.device == "cpu"} == {1, 64}
        assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=False).returncode == 0
