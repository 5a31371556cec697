"""A search that holds on to an accuracy: its trials close in on where that is crossed, and a resumed one aims alike."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from helpers.sample_search import make_job
from helpers.simulated_trials import BASE, DENSE_FLOPS, Killed, make_coordinator, run_all
from helpers.workers_command import SEARCH, Search

from autoslim.core.accuracy_goal import AccuracyGoal
from autoslim.core.budget import Budget
from autoslim.core.job import SearchJob
from autoslim.core.recipe import TrainingSettings
from autoslim.core.result import Origin, TrialResult, TrialState
from autoslim.core.selection import best_within_budgets
from autoslim.core.urls import default_url
from autoslim.export.artifact import load_config
from autoslim.store import Store
from workers.search.prepare import prepare

GOAL = AccuracyGoal(max_drop=25.0)


def goal_job(root: Path, **changes: Any) -> SearchJob:
    settings = {"budgets": (), "goal": GOAL, "trials": 14, "training": TrainingSettings(epochs=4.0), "sampler": "random"}
    return make_job(str(root), **{**settings, **changes})


def run(root: Path, job: SearchJob) -> list[TrialResult]:
    root.mkdir(parents=True, exist_ok=True)
    with Store(default_url(str(root))) as store:
        run_all(make_coordinator(job, store, root))
        return store.trials(job.id)


def targets(root: Path, job: SearchJob) -> list[str]:
    with Store(default_url(str(root))) as store:
        return [trial.target for trial in store.stored_trials(job.id)]


def test_trials_take_the_goals_flops_and_the_cheapest_that_keeps_is_delivered(tmp_path):
    job = goal_job(tmp_path)
    results = run(tmp_path, job)
    floor = job.floor(BASE.dense_accuracy)
    assert floor is not None
    selected = best_within_budgets(results, {}, job.limits, floor)
    kept = [result for result in results if result.state is TrialState.COMPLETE and floor.keeps(result.accuracy)]
    assert selected["drop-25"].flops == min(result.flops for result in kept) < DENSE_FLOPS
    aimed = [result.recipe.budget for result, target in zip(results, targets(tmp_path, job), strict=True) if target == "drop-25"]
    assert len(set(aimed)) > 3
    assert all(result.origin is not Origin.CONTROL for result in results)
    # Before a trial keeps to the floor the dense model is the upper end.
    assert all(flops < DENSE_FLOPS for flops in aimed)


def test_the_goal_takes_turns_with_budgets(tmp_path):
    job = goal_job(tmp_path, budgets=(Budget.parse("80%"),), trials=12, final_share=0.0)
    run(tmp_path, job)
    dealt = targets(tmp_path, job)
    assert set(dealt) == {"80%", "drop-25", "free"}
    assert abs(dealt.count("80%") - dealt.count("drop-25")) <= 2


@pytest.mark.parametrize("sampler", ["random", pytest.param("forest", marks=pytest.mark.slow)])
def test_killed_at_random_moments_a_resumed_search_aims_as_the_undisturbed_one(tmp_path, sampler):
    job = goal_job(tmp_path / "undisturbed", sampler=sampler)
    expected, chance, attempts = run(tmp_path / "undisturbed", job), random.Random(2), 0
    root = tmp_path / "killed"
    root.mkdir()
    while True:
        attempts += 1
        lives = chance.randrange(2, 25)

        def step() -> None:
            nonlocal lives
            lives -= 1
            if lives < 0:
                raise Killed

        with Store(default_url(str(root))) as store:
            try:
                run_all(make_coordinator(job, store, root), step)
            except Killed:
                continue
            assert store.trials(job.id) == expected
            assert attempts > 2
            return


def test_a_search_of_a_goal_alone_is_prepared_without_budgets(tmp_path):
    from autoslim.config import Placement, read_mapping

    fields = {"model": "deit_tiny_patch16_224", "weights": "scratch", "data": "digits", "image_size": 16, "max_drop": 1}
    spec = read_mapping({**fields, "model_args": {"patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2}})
    job = spec.to_job(id="j", placement=Placement(output=str(tmp_path / "out")))
    assert (job.budgets, job.labels) == ((), ("drop-1",))
    prepared = prepare(job, tmp_path / "cache")
    assert prepared.budgets == {}
    assert 0 < prepared.mean_budget_share < 1
    assert prepared.goal_lines[-1].startswith("trials begin at ")
    assert prepared.first_share() == pytest.approx(sum(prepared.shares_of_others().values()) / len(prepared.shares_of_others()))


REQUEST = [word for word in SEARCH if word not in ("--flops", "70%", "50%")]


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_the_cheapest_model_is_delivered_with_the_interval_of_what_it_loses(tmp_path):
    output = tmp_path / "run"
    search = Search(*REQUEST, "--base-epochs", "4", "--max-drop", "25", "--trials", "5", "--output", str(output), "--json")
    assert search.end() == 0, search.text
    summary = json.loads(search.text[search.text.index("{\n") :])
    (model,) = summary["models"]
    assert (model["label"], summary["goal"], summary["missing"]) == ("drop-25", "drop-25", [])
    assert model["accuracy"] >= summary["dense_accuracy"] - 0.25
    reason = summary["reasons"]["drop-25"]["sentence"]
    assert "at most 25 points below the dense model's" in reason
    assert "validation images (95 %: " in reason and "test images (95 %: " in reason
    config = load_config(Path(model["folder"]))
    assert config.flops.fvcore == model["flops"] < summary["dense_flops"]
    assert " for drop-25, " in search.text
    assert search.text.index("goal: trials begin at ") < search.text.index("dense model: ")
    assert "points lost on" in " ".join((Path(model["folder"]) / "README.md").read_text().split())
    assert "drop-25" in (output / "front.html").read_text()


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_goal_that_no_trial_keeps_to_is_missing_and_names_the_nearest(tmp_path):
    output = tmp_path / "run"
    flags = ["--min-accuracy", "100%", "--trials", "2", "--speed", "none", "--output", str(output)]
    search = Search(*REQUEST, *flags)
    assert search.end() == 3, search.text
    assert "at-least-100%: no complete trial has an accuracy of at least 100%; the nearest, trial " in search.text
