"""The cheapest model that cannot be told from the best one."""

from __future__ import annotations

from collections.abc import Callable

from autoslim.core.result import TrialResult, TrialState
from autoslim.search import cheapest_within_noise

Point = Callable[..., TrialResult]
BUDGETS = {"70%": 70, "50%": 50}


def test_a_cheaper_trial_within_the_interval_of_the_best_is_taken(point: Point) -> None:
    results = [point(0, 69, 0.80), point(1, 49, 0.79), point(2, 30, 0.70), point(3, 40, 0.79).replace(state=TrialState.FAILED)]
    found = cheapest_within_noise(results, BUDGETS, images=1000)
    assert found is not None
    assert (found.trial, found.best, found.flops, found.accuracy, found.images) == (1, 0, 49, 0.79, 1000)
    assert found.cheaper == 1
    # 0.80 of 1000 images: 0.774 to 0.824.
    assert (round(found.interval.low, 3), round(found.interval.high, 3)) == (0.774, 0.824)


def test_with_many_images_the_best_stays_alone(point: Point) -> None:
    results = [point(0, 69, 0.80), point(1, 49, 0.79)]
    found = cheapest_within_noise(results, BUDGETS, images=100_000)
    assert found is not None
    assert found.trial == found.best == 0
    assert found.cheaper == 1


def test_trials_above_every_budget_do_not_count(point: Point) -> None:
    found = cheapest_within_noise([point(0, 90, 0.9), point(1, 60, 0.6)], BUDGETS, images=1000)
    assert found is not None
    assert found.trial == found.best == 1
    assert found.cheaper == 0
    assert cheapest_within_noise([point(0, 90, 0.9)], BUDGETS, images=1000) is None
