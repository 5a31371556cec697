"""A search on images without labels, from the command line to a model of features."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny import CLASSES, make_dense
from helpers.workers_command import Search
from PIL import Image

import autoslim
from autoslim.core.urls import default_url
from autoslim.export.artifact import load_config
from autoslim.models import write_folder
from autoslim.store import Store

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(280)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Search]:
    root = tmp_path_factory.mktemp("search")
    dense = make_dense()
    write_folder(root / "dense", dense.module, dense.architecture, preprocessing=dense.preprocessing, classes=CLASSES)
    (root / "photos").mkdir()
    for number in range(80):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "photos" / f"{number}.png")
    search = Search(
        "--model", str(root / "dense"), "--data", str(root / "photos"), "--objective", "features", "--probe", "digits",
        "--flops", "70%", "--flops", "50%", "--space", "smoke", "--trials", "6", "--concurrency", "1", "--epochs", "2",
        "--batch-size", "16", "--speed", "none", "--output", str(root / "run"), "--json",
    )  # fmt: skip
    assert search.end() == 0, search.text
    return root / "run", search


def test_every_budget_has_a_model_of_features_within_it(finished: tuple[Path, Search]) -> None:
    output, search = finished
    summary = json.loads(search.text[search.text.index("{\n") :])
    assert (summary["score"], summary["dense_accuracy"], summary["missing"]) == ("agreement", 1.0, [])
    for model in summary["models"]:
        folder = output / "models" / model["label"]
        config = load_config(folder)
        slimmed = autoslim.load(folder)
        assert autoslim.count_flops(slimmed, config.shape.image_size) == config.flops.fvcore <= model["budget"]
        tokens = slimmed.forward_features(torch.zeros(2, 3, 32, 32), restore_tokens=True)
        assert tokens.shape == (2, config.shape.tokens, config.shape.dim)
        assert 0 < config.accuracy["test/agreement"] == model["test_accuracy"] < 1
        assert config.accuracy["probe/dense"] == model["probe"]["dense"] > 0.2
        assert {form.name for form in config.forms if form.file} >= {"onnx", "pt2"}


def test_every_report_says_agreement(finished: tuple[Path, Search]) -> None:
    output, search = finished
    assert "dense model: " in search.text and "as it is, for its features" in search.text
    progress = search.text[: search.text.index("{\n")]
    assert "agreement" in progress and "accura" not in progress
    page, card = (output / "front.html").read_text(), (output / "models" / "50%" / "README.md").read_text()
    assert "Agreement over FLOPs" in page and "Dense model: agreement 1.0000" in page
    assert "| dense | 1.0000 | 1.0000 |" in card and "k-NN top-1" in card


def test_mlflow_has_the_agreement_of_every_trial(finished: tuple[Path, Search]) -> None:
    from mlflow import MlflowClient

    output, _ = finished
    with Store(default_url(output)) as store:
        (stored,) = store.jobs()
        results = store.trials(stored.job.id)
    assert stored.base is not None
    assert (stored.job.dataset.labelled, stored.base.chance, stored.base.dense_accuracy) == (False, 0.0, 1.0)
    client = MlflowClient(tracking_uri=f"sqlite:///{output / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'autoslim'")
    runs = {run.data.tags["autoslim.entity"]: run for run in client.search_runs([experiment.experiment_id])}
    for result in results:
        if result.accuracy is not None and result.duplicate_of is None:
            assert runs[str(result.number)].data.metrics["val_agreement"] == pytest.approx(result.accuracy)
    assert not [name for run in runs.values() for name in run.data.metrics if "accuracy" in name]
