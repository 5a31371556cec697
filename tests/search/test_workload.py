"""How much a search is going to train."""

from __future__ import annotations

import random
from typing import Any

import pytest
from helpers.sample_search import make_job, make_recipe

from autoslim.core.budget import Budget
from autoslim.core.job import SearchJob
from autoslim.core.recipe import TrainingSettings
from autoslim.core.result import EpochReport, Origin, Phase, TrialResult, TrialState
from autoslim.search import expected_work, make_pruner, workload
from autoslim.search.pruners import PRUNERS
from autoslim.search.pruners.nop import NopPruner
from autoslim.search.workload import most_work


def job(**changes: Any) -> SearchJob:
    given: dict[str, Any] = {
        "budgets": (Budget.parse("50%"),),
        "training": TrainingSettings(epochs=9.0),
        "final_share": 0.0,
        "trials": 60,
    }
    return make_job(**{**given, **changes})


def trained_by(scheduler: str, *, trials: int, epochs: int, seed: int) -> float:
    """Epochs of a search's trials, as its scheduler stops them.

    Every third one is free; the sampler learns, so that a late trial is more often a good one; accuracies keep their order.
    """
    draw, should_prune, spent = random.Random(seed), make_pruner(scheduler, epochs=epochs, chance=0.1), 0
    for number in range(trials):
        origin = Origin.CONTROL if number == 0 else Origin.SAMPLER
        share = draw.uniform(0.4, 1.9) if number % 3 == 2 else 1.0
        recipe = make_recipe(number, budget=int(share * make_recipe(0).budget))
        trial = TrialResult(number=number, recipe=recipe, origin=origin, state=TrialState.RUNNING)
        good = max(draw.random() for _ in range(1 + number // 8)) + share - 1
        for epoch in range(1, epochs + 1):
            spent += 1
            report = EpochReport(epoch=float(epoch), phase=Phase.FINETUNE, metrics={"accuracy": 0.4 + 0.2 * good + epoch / 1000})
            if should_prune.should_prune(trial, report) is not None:
                break
    return float(spent)


@pytest.mark.parametrize("scheduler", ["halving", "median", "none"])
@pytest.mark.parametrize("trials", [12, 60])
def test_early_stops_save_about_what_is_expected_of_them(scheduler: str, trials: int):
    runs = [trained_by(scheduler, trials=trials, epochs=9, seed=seed) for seed in range(20)]
    real = sum(runs) / len(runs)
    assert expected_work(job(scheduler=scheduler, trials=trials)).epochs == pytest.approx(real, rel=0.25)


@pytest.mark.parametrize("changes", [{}, {"final_share": 0.25}, {"max_epochs": 100.0}, {"max_epochs": 100.0, "final_share": 0.4}])
def test_the_most_work_is_that_without_early_stops(changes: dict[str, float]):
    assert most_work(job(**changes)) == expected_work(job(scheduler="none", **changes))


def test_the_most_work_of_any_number_of_trials_is_known_at_once():
    assert most_work(job(trials=10**12)).epochs == 9e12


@pytest.mark.parametrize("scheduler", ["halving", "median", "none"])
@pytest.mark.parametrize("changes", [{"trials": 50_000}, {"trials": 10**6, "max_epochs": 2e5}])
def test_late_trials_are_counted_in_blocks_and_their_sum_is_that_of_each(
    scheduler: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    found = expected_work(job(scheduler=scheduler, **changes))
    monkeypatch.setattr(workload, "_EXACT_TRIALS", 10**9)
    each = expected_work(job(scheduler=scheduler, **changes))
    assert (found.trials, found.epochs) == (pytest.approx(each.trials, rel=1e-3), pytest.approx(each.epochs, rel=1e-3))


def test_the_expected_work_of_any_number_of_trials_is_known_soon(monkeypatch: pytest.MonkeyPatch):
    asked = 0

    class Counting(NopPruner):
        def expected_epochs(self, position: int) -> float:
            nonlocal asked
            asked += 1
            return super().expected_epochs(position)

    monkeypatch.setitem(PRUNERS, "none", Counting)
    assert expected_work(job(scheduler="none", trials=10**12)).epochs == pytest.approx(9e12)
    assert asked < 20_000


def test_the_end_gets_its_share_of_the_compute():
    work = expected_work(job(scheduler="none", trials=6, final_share=0.25, training=TrainingSettings(epochs=2.0)))
    assert (work.trials, work.epochs, work.refinements, work.refinement_epochs) == (6, 12.0, 1, pytest.approx(4.0))


def test_an_end_that_is_too_short_for_anything_is_not_counted():
    work = expected_work(job(scheduler="none", trials=2, final_share=0.25))
    assert (work.refinements, work.refinement_epochs) == (0, 0.0)


def test_epochs_that_are_limited_are_not_passed():
    work = expected_work(job(scheduler="none", trials=1000, max_epochs=100.0, final_share=0.25))
    assert work.trials == 8
    assert work.epochs + work.refinement_epochs <= 100.0
