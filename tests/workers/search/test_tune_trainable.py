"""An actor that runs several trials gives bit for bit what fresh actors give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import ray
import safetensors.torch
import torch

from autoslim.core.job import DatasetSpec, ModelSpec
from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe, Step, TrainingSettings
from autoslim.cost import predict
from autoslim.data import prepare_dataset
from autoslim.methods import METHODS, solve
from autoslim.models import create_dense
from autoslim.training import BaseRequest, prepare_base
from workers.search.cluster import Cluster
from workers.search.tune_trainable import TrialTrainable, trial_config

MODEL = ModelSpec(
    name="deit_tiny_patch16_224",
    weights="scratch",
    args={"patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2},
    image_size=(16, 16),
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("reuse")
    dataset = prepare_dataset(DatasetSpec(source="digits", train_limit=256), root, seed=0)
    request = BaseRequest(
        model=MODEL,
        weights_digest="",
        dataset_digest=dataset.digest,
        training=TrainingSettings(epochs=1, distillation=0.0),
        seed=0,
    )
    for _ in prepare_base(root / "base", request, dataset):
        pass
    return {
        "job_id": "reuse",
        "base_folder": str(root / "base"),
        "teacher_folder": "",
        "output_uri": "",
        "dataset": dataset.reference,
        "ranks": 1,
        "torch_threads": 1,
        "stall_seconds": 3600.0,
        "shared_folder": str(root / "shared"),
        "shared_training": TrainingSettings(epochs=1.0, batch_size=32).to_json(),
        "latency_table": "",
    }


def _recipes() -> list[Recipe]:
    shape = create_dense(MODEL, classes=10).shape
    dense = Plan.dense(shape)
    budget = int(0.6 * predict(shape, dense).total)
    order = ("vit_slim", "life_regression", "vit_slim")
    recipes = []
    for seed, name in enumerate(order):
        solved = solve(METHODS[name], shape, dense, {}, budget)
        step = Step(method=name, knobs=solved.knobs)
        recipes.append(Recipe(steps=(step,), budget=budget, training=TrainingSettings(epochs=1.0, batch_size=32), seed=seed))
    return recipes


def _run(actor: Any, config: dict[str, Any], *, fresh: bool) -> dict[str, Any]:
    if not fresh:
        assert ray.get(actor.reset.remote(config))
    while True:
        result: dict[str, Any] = ray.get(actor.train.remote())
        if result["done"]:
            assert "outcome" in result, result
            return result


@pytest.mark.slow
def test_three_trials_in_one_worker_are_bit_equal_to_three_fresh_workers(
    cluster: Cluster, shared: dict[str, Any], tmp_path: Path
) -> None:
    remote = ray.remote(num_cpus=1)(TrialTrainable)
    reused, models = None, {}
    for number, recipe in enumerate(_recipes()):
        for kind in ("reused", "fresh"):
            folder = tmp_path / kind / str(number)
            config = trial_config(recipe, number=0, folder=folder, target="60%", common=shared)
            if kind == "fresh" or reused is None:
                actor = remote.remote(config=config)
                reused = reused or actor
                outcome = _run(actor, config, fresh=True)
            else:
                outcome = _run(reused, config, fresh=False)
            found = json.loads(outcome["outcome"])
            models[kind, number] = (found["accuracy"], safetensors.torch.load_file(folder / "model" / "model.safetensors"))
            if kind == "fresh":
                ray.kill(actor)
    for number in range(3):
        accuracy, state = models["fresh", number]
        again, other = models["reused", number]
        assert accuracy == again
        assert state.keys() == other.keys()
        assert all(torch.equal(state[name], other[name]) for name in state), f"trial {number}"


@pytest.mark.slow
def test_a_trial_that_diverges_ends_finished_and_bad(cluster: Cluster, shared: dict[str, Any], tmp_path: Path) -> None:
    recipe = _recipes()[0]
    recipe = recipe.replace(training=recipe.training.replace(lr=1e30))
    config = trial_config(recipe, number=0, folder=tmp_path / "bad", target="60%", common=shared)
    actor = ray.remote(num_cpus=1)(TrialTrainable).remote(config=config)
    while not (result := ray.get(actor.train.remote()))["done"]:
        pass
    assert result["error_class"] == "DivergedError"
    assert "outcome" not in result


@pytest.mark.slow
def test_a_trial_has_a_process_for_each_of_its_ranks_and_one_worker_runs_several(
    cluster: Cluster, shared: dict[str, Any], tmp_path: Path
) -> None:
    actor: Any = None
    for number, recipe in enumerate(_recipes()[:2]):
        config = trial_config(recipe, number=number, folder=tmp_path / str(number), target="60%", common={**shared, "ranks": 2})
        if actor is None:
            actor = ray.remote(num_cpus=1)(TrialTrainable).remote(config=config)
        assert "outcome" in _run(actor, config, fresh=number == 0)
