"""When a search ends, and what follows with the best of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from helpers.sample_search import make_job

from autoslim.core.constraints import CostLimits
from autoslim.core.recipe import Recipe, Step, TrainingSettings
from autoslim.core.result import Origin, TrialResult, TrialState
from autoslim.core.selection import best_within
from autoslim.search import outclassed, refinement_recipes, search_limits, stop_reason
from autoslim.search.stopping import StoppingLimits, has_plateaued, spent_epochs

FACTS: dict[str, Any] = {"a_trial": 3.0, "seconds": 0.0, "dense_flops": 100, "chance": 0.1}
BUDGETS = {"50%": 50, "70%": 70}


def result(number: int, accuracy: float, flops: int = 50, **changes: Any) -> TrialResult:
    recipe = Recipe(steps=(Step(method="sit", knobs={"n": number}),), budget=flops, training=TrainingSettings(epochs=3.0), seed=0)
    made = TrialResult(
        number=number,
        recipe=recipe,
        origin=Origin.SAMPLER,
        state=TrialState.COMPLETE,
        accuracy=accuracy,
        flops=flops,
        epochs=3.0,
        seconds=30.0,
    )
    return dataclasses.replace(made, **changes)


def test_the_number_of_trials_ends_it():
    results = [result(number, 0.5) for number in range(4)]
    assert stop_reason(StoppingLimits(trials=4), results, **FACTS) == "4 trials"
    assert stop_reason(StoppingLimits(trials=5), results, **FACTS) is None


def test_epochs_are_never_passed_running_trials_counted_whole():
    results = [
        result(0, 0.5),
        result(1, 0.5, state=TrialState.STOPPED, epochs=1.0),
        result(2, 0.5, state=TrialState.RUNNING, epochs=None),
    ]
    assert spent_epochs(results) == 4.0
    assert stop_reason(StoppingLimits(trials=99, epochs=10.0), results, **FACTS) is None
    assert "9.9 that are allowed" in (stop_reason(StoppingLimits(trials=99, epochs=9.9), results, **FACTS) or "")


def test_no_trial_begins_that_an_average_one_would_take_past_the_time():
    results = [result(0, 0.5), result(1, 0.5, state=TrialState.STOPPED, seconds=1.0)]
    assert stop_reason(StoppingLimits(trials=99, seconds=100.0), results, **{**FACTS, "seconds": 69.0}) is None
    assert "time is up" in (stop_reason(StoppingLimits(trials=99, seconds=100.0), results, **{**FACTS, "seconds": 71.0}) or "")


def test_a_front_that_does_not_grow_for_long_enough_ends_it():
    grown = [result(number, 0.3 + number / 20) for number in range(6)]
    assert not has_plateaued(grown, 3, dense_flops=100, chance=0.1)
    flat = [*grown, *(result(number, 0.5) for number in range(6, 9))]
    assert has_plateaued(flat, 3, dense_flops=100, chance=0.1)
    assert "3 trials" in (stop_reason(StoppingLimits(trials=99, plateau=3), flat, **FACTS) or "")
    assert not has_plateaued(flat, 4, dense_flops=100, chance=0.1)
    cheaper = [*flat[:-1], result(9, 0.55, flops=20)]
    assert not has_plateaued(cheaper, 3, dense_flops=100, chance=0.1)


def test_the_end_keeps_its_share_of_epochs_and_time_unless_it_could_not_be_run():
    job = make_job(max_epochs=100.0, max_seconds=1000.0, final_share=0.2)
    limits = search_limits(job)
    assert (limits.epochs, limits.seconds, limits.trials) == (80.0, 800.0, 24)
    assert search_limits(job.replace(max_epochs=10.0)).epochs == 10.0
    assert search_limits(job.replace(final_share=0.0)).seconds == 1000.0


def test_the_best_recipe_of_each_budget_is_tuned_longer_within_the_share():
    results = [result(number, 0.4 + number / 100, flops=50 if number % 2 else 70) for number in range(20)]
    finals = refinement_recipes(results, BUDGETS, share=0.25)
    assert [label for label, _ in finals] == ["50%", "70%"]
    assert [recipe.steps[0].knobs["n"] for _, recipe in finals] == [19, 18]
    assert {recipe.training.epochs for _, recipe in finals} == {10.0}
    assert sum(recipe.training.epochs for _, recipe in finals) <= 0.25 / 0.75 * spent_epochs(results) + 0.1
    assert refinement_recipes(results[:6], BUDGETS, share=0.25) == []
    assert refinement_recipes(results, BUDGETS, share=0.0) == []


def test_more_compute_tunes_two_recipes_a_budget_and_every_seed_asked_for():
    results = [result(number, 0.4 + number / 1000, flops=50) for number in range(60)]
    finals = refinement_recipes(results, {"50%": 50}, share=0.25, seeds=2)
    assert [(recipe.steps[0].knobs["n"], recipe.seed) for _, recipe in finals] == [(59, 0), (59, 1), (58, 0), (58, 1)]
    assert {recipe.training.epochs for _, recipe in finals} == {15.0}


def test_of_several_seeds_the_recipe_with_the_best_mean_is_chosen_and_its_best_seed_and_others_count_by_their_own_accuracy():
    recipes = refinement_recipes([result(n, 0.5 + n / 100) for n in range(60)], {"50%": 50}, share=0.25, seeds=2)
    finals = [
        TrialResult(
            number=60 + i, recipe=recipe, origin=Origin.REFINEMENT, state=TrialState.COMPLETE, accuracy=accuracy, flops=50
        )
        for i, ((_, recipe), accuracy) in enumerate(zip(recipes, (0.90, 0.80, 0.86, 0.85), strict=True))
    ]
    # The mean of the second recipe is higher, though the first one has the best seed.
    assert best_within(finals, 50) == finals[2]
    assert best_within([result(0, 0.855), *finals], 50) == finals[2]
    assert best_within([result(0, 0.95), *finals], 50) == result(0, 0.95)


def test_the_trial_that_follows_a_refined_one_which_is_left_out_keeps_its_model():
    """Trial 1 is surpassed by the first seed of trial 60, which is left out when its second seed has ended."""
    lucky, other = result(1, 0.8).recipe, result(2, 0.7).recipe

    def refined(number: int, recipe: Recipe, seed: int, accuracy: float) -> TrialResult:
        return result(number, accuracy, origin=Origin.REFINEMENT).replace(recipe=recipe.replace(seed=seed))

    first = [result(1, 0.8), result(2, 0.7), refined(60, lucky, 0, 0.9)]
    whole = [*first, refined(61, lucky, 1, 0.4), refined(62, other, 0, 0.7), refined(63, other, 1, 0.72)]
    assert best_within(whole, 50) == result(1, 0.8)
    assert 1 not in {found.number for found in outclassed(first, {"50%": 50}, CostLimits())}


def test_what_can_be_chosen_no_more_is_outclassed_but_no_final_trial_is():
    results = [
        result(0, 0.5),
        result(1, 0.6),
        result(2, 0.55, flops=40),
        result(3, 0.3),
        result(4, 0.2, origin=Origin.REFINEMENT),
    ]
    assert [r.number for r in outclassed(results, {"50%": 50}, CostLimits())] == [0, 3]


@pytest.mark.parametrize("state", [TrialState.FAILED, TrialState.STOPPED, TrialState.RUNNING])
def test_only_complete_trials_are_tuned_longer(state):
    results = [result(n, 0.9, state=state) for n in range(30)]
    assert refinement_recipes(results, {"50%": 50}, share=0.5) == []
