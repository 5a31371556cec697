"""A search with two dense models, from the command line to the model of the winner."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers.workers_command import Search

import autoslim
from autoslim.core.urls import default_url
from autoslim.export.artifact import load_config
from autoslim.store import Store

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(280)]

PLAIN, DISTILLED = "deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"
TWO = [
    "--model", PLAIN, "--model", DISTILLED, "--from-scratch",
    "--model-args", "patch_size=4,embed_dim=32,depth=3,num_heads=2", "--image-size", "16",
    "--data", "digits", "--flops", "60%", "--space", "smoke", "--trials", "6", "--concurrency", "1",
    "--epochs", "1", "--base-epochs", "1", "--batch-size", "64", "--speed", "none", "--scheduler", "none", "--final-share", "0",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Search]:
    output = tmp_path_factory.mktemp("search") / "run"
    search = Search(*TWO, "--output", str(output), "--json")
    assert search.end() == 0, search.text
    return output, search


def test_trials_start_from_both_models_and_say_so(finished: tuple[Path, Search]) -> None:
    output, search = finished
    with Store(default_url(output)) as store:
        (stored,) = store.jobs()
        results = store.trials(stored.job.id)
    assert {result.recipe.model for result in results} == {PLAIN, DISTILLED}
    assert sorted(pq.read_table(output / "trials.parquet")["model"].unique().to_pylist()) == sorted([PLAIN, DISTILLED])
    for name in (PLAIN, DISTILLED):
        assert re.search(rf"trial \d \(\d/6 done\) \w+(\+\w+)? of {name} starts", search.text)


def test_each_dense_model_is_adapted_once_and_the_most_accurate_teaches(finished: tuple[Path, Search]) -> None:
    output, search = finished
    assert len(list((output / "cache").glob("base-*/facts.json"))) == 2
    with Store(default_url(output)) as store:
        (stored,) = store.jobs()
    assert [cost.method for cost in stored.shared].count("dense model") == 2
    assert stored.base is not None
    accuracies = {label: facts.dense_accuracy for label, facts in stored.base.starts.items()}
    best = max(accuracies, key=lambda label: accuracies[label])
    assert stored.base.teacher == {label: best for label in accuracies if label != best}
    assert f"{best} is the teacher of the trials of {PLAIN} and {DISTILLED}" in search.text


def test_the_models_folder_has_the_winners_own_architecture_and_the_report_names_it(finished: tuple[Path, Search]) -> None:
    output, search = finished
    summary = json.loads(search.text[search.text.index("{\n") :])
    (model,) = summary["models"]
    folder = output / "models" / "60%"
    config = load_config(folder)
    assert config.architecture.name == config.recipe.model == model["model"]
    flops = autoslim.count_flops(autoslim.load(folder), config.shape.image_size)
    assert flops == config.flops.fvcore <= model["budget"]
    # 60 % of the first model's FLOPs, whichever has won.
    assert model["budget"] == int(0.6 * summary["starts"][PLAIN]["dense_flops"])
    assert config.accuracy["validation/dense"] == summary["starts"][model["model"]]["dense_accuracy"]
    assert config.flops.dense == summary["starts"][model["model"]]["dense_flops"]
    sentence = summary["reasons"]["60%"]["sentence"]
    assert f" of {model['model']}) " in sentence
    page, card = (output / "front.html").read_text(), (folder / "README.md").read_text()
    assert f"from its dense model `{model['model']}`" in card
    for name in (PLAIN, DISTILLED):
        assert f"Dense model {name}: top-1" in page


def test_a_resumed_search_trains_neither_dense_model_again_and_continues_with_both(finished: tuple[Path, Search]) -> None:
    output, _ = finished
    facts = {path: path.stat().st_mtime_ns for path in (output / "cache").glob("base-*/facts.json")}
    search = Search("--resume", "--trials", "7", "--output", str(output), "--json")
    assert search.end() == 0, search.text
    assert {path: path.stat().st_mtime_ns for path in (output / "cache").glob("base-*/facts.json")} == facts
    with Store(default_url(output)) as store:
        (stored,) = store.jobs()
        assert len(store.trials(stored.job.id)) == 7
