"""Where the trials of a search for an accuracy aim, on a synthetic response of accuracy to FLOPs."""

from __future__ import annotations

import dataclasses
import random
import statistics
from typing import Any

import pytest

from autoslim.core.accuracy_goal import Floor
from autoslim.core.constraints import CostLimits
from autoslim.core.recipe import Recipe, Step, TrainingSettings
from autoslim.core.result import Origin, TrialResult, TrialState
from autoslim.search import load_prior, prior_shares
from autoslim.search.floor_target import FIRST_SHARE, RESOLUTION, FloorTarget, first_share
from autoslim.search.refinement import best_near, refinement_recipes

DENSE, CHEAPEST, CROSSING = 1_000_000, 100_000, 400_000
TARGET = FloorTarget(floor=Floor(label="drop-1", least=0.89), dense_flops=DENSE, dense_accuracy=0.90)


def best_accuracy(flops: int) -> float:
    """Of the best recipe; it crosses the floor at `CROSSING`."""
    return 0.90 - 0.01 * ((DENSE - flops) / (DENSE - CROSSING)) ** 3


def trial(number: int, flops: int, accuracy: float | None, **changes: Any) -> TrialResult:
    recipe = Recipe(
        steps=(Step(method="merge", knobs={"n": number}),), budget=flops, training=TrainingSettings(epochs=3.0), seed=0
    )
    made = TrialResult(
        number=number, recipe=recipe, origin=Origin.SAMPLER, state=TrialState.COMPLETE, accuracy=accuracy, flops=flops, epochs=3.0
    )
    return dataclasses.replace(made, **changes)


def running(number: int, flops: int) -> TrialResult:
    return trial(number, flops, None, state=TrialState.RUNNING, epochs=None).replace(flops=None)


def aimed(history: list[TrialResult], target: FloorTarget = TARGET) -> int:
    return target.flops(history, cheapest=CHEAPEST, limits=CostLimits())


def play(trials: int, *, noise: float, seed: int, slots: int = 1) -> list[TrialResult]:
    """A search in which one recipe in three is the best one and the others are worse by half a point or two; `slots` trials run at a
    time."""
    draw, history = random.Random(seed), list[TrialResult]()
    while len(history) < trials:
        batch = list[TrialResult]()
        for _ in range(min(slots, trials - len(history))):
            batch.append(running(len(history) + len(batch), aimed([*history, *batch])))
        for one in batch:
            flops = one.recipe.budget
            accuracy = best_accuracy(flops) - draw.choice([0.0, 0.005, 0.02]) + draw.gauss(0, noise)
            history.append(trial(one.number, flops, accuracy))
    return history


def cheapest_kept(history: list[TrialResult]) -> int:
    return min((r.flops or 0 for r in history if TARGET.floor.keeps(r.accuracy)), default=DENSE)


def test_the_first_trial_aims_at_what_others_say_and_else_at_a_share():
    assert aimed([]) == FIRST_SHARE * DENSE
    assert aimed([], TARGET.replace(first=0.55)) == 550_000
    earlier = [trial(-1, 450_000, 0.895), trial(-2, 300_000, 0.85)]
    assert aimed(earlier) == 450_000


def test_a_model_of_an_earlier_search_is_no_model_of_this_one():
    # It cannot be delivered, so that its own FLOPs remain to be reached again; only this search's trials close the bracket.
    earlier = [trial(-1, 300_000, 0.895)]
    kept = [*earlier, trial(0, 600_000, 0.895)]
    assert aimed(kept) < 600_000
    assert aimed([*kept, trial(1, 500_000, 0.88)]) > 500_000


def test_a_trial_aims_where_the_ends_of_the_bracket_cross_the_floor_and_away_from_both():
    missed, kept = trial(0, 200_000, 0.87), trial(1, 600_000, 0.895)
    # The crossing is at 0.8 of the way, and a quarter of the bracket is kept from its ends.
    assert aimed([missed, kept]) == 500_000
    assert aimed([trial(0, 200_000, 0.885), kept]) == 400_000
    assert aimed([trial(0, 200_000, 0.8899), kept]) == 300_000


def test_a_closed_bracket_is_left_downwards_in_steps():
    closed = [trial(0, 390_000, 0.889), trial(1, 400_000, 0.891)]
    steps = [aimed(closed)]
    for number in (2, 3, 4):
        closed.append(trial(number, steps[-1], 0.85))
        steps.append(aimed(closed))
    assert [round((400_000 - step) / DENSE, 3) for step in steps] == [RESOLUTION, 2 * RESOLUTION, 4 * RESOLUTION, RESOLUTION]


def test_trials_side_by_side_aim_at_different_places():
    found = list[TrialResult]()
    for number in range(4):
        found.append(running(number, aimed(found)))
    places = [one.recipe.budget for one in found]
    assert len(set(places)) == 4
    assert all(CHEAPEST < place < DENSE for place in places)


def test_the_target_is_never_below_what_the_space_reaches():
    assert aimed([trial(0, 110_000, 0.899)]) == CHEAPEST


def test_stopped_trials_and_other_targets_count_and_failed_ones_do_not():
    kept = trial(0, 600_000, 0.895)
    bounded = aimed([kept, trial(1, 500_000, 0.86, state=TrialState.STOPPED)])
    assert bounded > 500_000
    assert aimed([kept, trial(1, 500_000, None, state=TrialState.FAILED, error_class="DivergedError")]) == aimed([kept])


def test_where_the_dense_model_itself_is_below_the_floor_trials_still_aim_below_it():
    target = FloorTarget(floor=Floor(label="at-least-95%", least=0.95), dense_flops=DENSE, dense_accuracy=0.90)
    history = list[TrialResult]()
    for number in range(12):
        flops = aimed(history, target)
        assert CHEAPEST <= flops <= DENSE
        history.append(trial(number, flops, best_accuracy(flops)))


@pytest.mark.parametrize("slots", [1, 4])
def test_most_trials_are_near_the_crossing_and_the_cheapest_that_keeps_is(slots: int):
    played = [play(20, noise=0.0, seed=seed, slots=slots) for seed in range(20)]
    found = [cheapest_kept(history) for history in played]
    assert all(flops >= CROSSING for flops in found)
    assert statistics.median(found) <= CROSSING + 0.03 * DENSE
    near = [abs(one.recipe.budget - CROSSING) <= 0.15 * DENSE for history in played for one in history]
    assert statistics.fmean(near) > 0.6


def test_it_needs_fewer_trials_than_a_grid_of_budgets():
    """Twelve trials at equal distances over the range, three recipes at each of four budgets, cross at the budget above the crossing."""
    ours = statistics.median(cheapest_kept(play(12, noise=0.001, seed=seed)) for seed in range(20))
    assert ours < 0.5 * DENSE


def test_the_same_trials_in_any_order_of_arrival_aim_at_the_same_place():
    history = play(15, noise=0.002, seed=3)
    shuffled = random.Random(1).sample(history, len(history))
    assert aimed(sorted(shuffled, key=lambda one: one.number)) == aimed(history)
    assert [one.recipe.budget for one in play(15, noise=0.002, seed=3)] == [one.recipe.budget for one in history]


def test_other_models_say_where_it_begins():
    prior = load_prior("auto")
    assert prior is not None
    methods = sorted({step.method for table in prior for one in table.trials for step in one.steps})
    little, much = prior_shares(prior, 0.01, methods), prior_shares(prior, 0.05, methods)
    assert all(0 < much[name] <= share <= 1 for name, share in little.items())
    assert first_share(little.values()) == pytest.approx(statistics.fmean(little.values()))
    assert prior_shares(prior, 0.01, ["no_method"]) == {}
    assert first_share([]) == FIRST_SHARE


def test_the_refinement_trains_the_nearest_miss_and_the_cheapest_that_keeps():
    results = [trial(0, 500_000, 0.895), trial(1, 450_000, 0.889), trial(2, 400_000, 0.87), trial(3, 700_000, 0.899)]
    assert [one.number for one in best_near(results, TARGET.floor)] == [1, 0]
    assert [one.number for one in best_near(results[1:3], TARGET.floor)] == [1, 2]
    assert [one.number for one in best_near(results[3:], TARGET.floor)] == [3]
    recipes = refinement_recipes(results * 4, {}, share=0.5, floor=TARGET.floor)
    assert recipes and {label for label, _ in recipes} == {"drop-1"}
    assert [recipe.steps[0].knobs["n"] for _, recipe in recipes] == [1, 0]
