"""The best within a budget: the most accurate of all complete trials that keep to it, and of equals the cheaper."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoslim.core.constraints import CostLimits
from autoslim.core.recipe import Recipe, Step, TrainingSettings
from autoslim.core.result import Origin, TrialResult, TrialState
from autoslim.core.selection import best_within, best_within_budgets


def point(
    number: int,
    flops: int,
    accuracy: float,
    *,
    origin: Origin = Origin.SAMPLER,
    budget: int | None = None,
    seed: int = 0,
    knob: int = 0,
) -> TrialResult:
    step = Step(method="width", knobs={"n": knob or number})
    recipe = Recipe(steps=(step,), budget=budget or flops, training=TrainingSettings(), seed=seed)
    return TrialResult(number=number, recipe=recipe, origin=origin, state=TrialState.COMPLETE, accuracy=accuracy, flops=flops)


def refined(number: int, knob: int, seed: int, accuracy: float, *, flops: int = 69, budget: int = 70) -> TrialResult:
    return point(number, flops, accuracy, origin=Origin.REFINEMENT, budget=budget, seed=seed, knob=knob)


def test_the_most_accurate_within_each_budget_is_chosen_and_the_cheaper_of_equals():
    results = [point(0, 100, 0.9), point(1, 60, 0.8), point(2, 50, 0.8), point(3, 55, 0.7)]
    chosen = best_within_budgets(results, {"all": 100, "some": 70, "few": 10})
    assert {label: result.number for label, result in chosen.items()} == {"all": 0, "some": 2}


def test_a_cheaper_trial_that_is_more_accurate_comes_before_one_that_was_solved_for_the_budget():
    results = [point(0, 69, 0.958, budget=70), point(1, 49, 0.972, budget=50), point(2, 68, 0.75, budget=70)]
    assert best_within(results, 70) == results[1]
    assert best_within(results[::2], 70) == results[0]


def test_trials_that_are_not_complete_and_duplicates_are_never_chosen():
    for state in set(TrialState) - {TrialState.COMPLETE}:
        assert best_within([point(0, 50, 0.9).replace(state=state)], 70) is None
    assert best_within([point(0, 50, 0.9).replace(duplicate_of=7)], 70) is None
    assert best_within([], 70) is None


def test_of_equal_trials_the_earliest_stays():
    results = [point(0, 50, 0.8), point(1, 50, 0.8)]
    assert best_within(results, 70) == best_within(results[::-1], 70) == results[0]


def test_nothing_above_a_limit_is_chosen_and_the_next_best_takes_its_place():
    results = [
        point(0, 69, 0.9, budget=70).replace(params=30, latency_ms=4.0),
        point(1, 68, 0.8, budget=70).replace(params=10, latency_ms=4.9),
        point(2, 67, 0.7, budget=70).replace(params=10, latency_ms=4.0),
        point(3, 66, 0.6, budget=70).replace(params=10),
    ]

    def number(limits: CostLimits, results: list[TrialResult] = results) -> int | None:
        chosen = best_within(results, 70, limits)
        return None if chosen is None else chosen.number

    assert number(CostLimits()) == 0
    assert number(CostLimits(params=20)) == 1
    assert number(CostLimits(latency_ms=4.5)) == 0
    assert number(CostLimits(params=20, latency_ms=4.5)) == 2
    # What was measured counts for more than what was predicted.
    measured = [results[0], results[1].replace(latency_measured_ms=4.4), results[2].replace(latency_measured_ms=4.6)]
    assert number(CostLimits(params=20, latency_ms=4.5), measured) == 1
    assert number(CostLimits(params=5)) is None


def test_several_seeds_decide_between_the_recipes_that_were_refined_for_one_budget():
    results = [refined(0, 1, 0, 0.97), refined(1, 1, 1, 0.90), refined(2, 2, 0, 0.95), refined(3, 2, 1, 0.94)]
    assert best_within(results, 70) == results[2], "the mean of its seeds is higher, though not its best seed"


def test_one_seed_alone_counts_by_its_own_accuracy():
    results = [refined(0, 1, 0, 0.97), refined(1, 2, 0, 0.95), refined(2, 2, 1, 0.94)]
    assert best_within(results, 70) == results[0]


def test_seeds_of_a_smaller_budget_are_left_out_within_a_larger_one_too():
    results = [refined(0, 1, 0, 0.97), refined(1, 1, 1, 0.90), refined(2, 2, 0, 0.95), refined(3, 2, 1, 0.94)]
    assert best_within([*results, point(4, 99, 0.96, budget=100)], 100).number == 4


@st.composite
def histories(draw: st.DrawFn) -> list[TrialResult]:
    """Trials of three budgets with few different accuracies, so that many are equal; some are seeds of refined recipes."""
    results = []
    for number in range(draw(st.integers(1, 14))):
        budget = draw(st.sampled_from([50, 70, 100]))
        results.append(
            point(
                number,
                budget - draw(st.integers(0, 3)),
                draw(st.integers(0, 6)) / 6,
                origin=draw(st.sampled_from(list(Origin))),
                budget=budget,
                seed=draw(st.integers(0, 2)),
                knob=draw(st.integers(1, 2)),
            )
        )
    return results


@given(histories())
def test_a_larger_budget_never_gives_a_less_accurate_model(results: list[TrialResult]):
    chosen = [best_within(results, flops) for flops in (48, 50, 70, 100)]
    accuracies = [-1.0 if result is None else result.accuracy or 0.0 for result in chosen]
    assert accuracies == sorted(accuracies)


@given(histories())
def test_without_refinement_no_complete_trial_within_the_budget_is_better(results: list[TrialResult]):
    own = [result for result in results if result.origin is not Origin.REFINEMENT]
    within = [result for result in own if (result.flops or 0) <= 70]
    chosen = best_within(own, 70)
    if not within:
        assert chosen is None
        return
    assert chosen is not None
    assert chosen.accuracy == max(result.accuracy or 0.0 for result in within)
    assert chosen.flops == min(result.flops or 0 for result in within if result.accuracy == chosen.accuracy)


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_the_results_does_not_matter(order: int):
    results = [refined(0, 1, 0, 0.97), refined(1, 1, 1, 0.90), refined(2, 2, 0, 0.95), refined(3, 2, 1, 0.94), point(4, 60, 0.95)]
    assert best_within(results[::order], 70) == results[4]
