from __future__ import annotations

from collections.abc import Callable

from autoslim.core.constraints import CostLimits
from autoslim.core.result import Origin, ParetoFront, TrialResult, TrialState
from autoslim.search import against_control, cheaper_and_better, choose

Point = Callable[..., TrialResult]


def test_best_within_each_budget_is_chosen_and_the_cheaper_of_equals(point: Point) -> None:
    results = [point(0, 100, 0.9), point(1, 60, 0.8), point(2, 50, 0.8), point(3, 55, 0.7)]
    chosen = choose(results, {"all": 100, "some": 70, "few": 10})
    assert {label: result.number for label, result in chosen.items()} == {"all": 0, "some": 2}


def test_a_trial_solved_onto_the_budget_comes_before_a_cheaper_one_that_is_named_beside_it(point: Point) -> None:
    results = [point(0, 69, 0.8, budget=70), point(1, 40, 0.81), point(2, 68, 0.75, budget=70)]
    chosen = choose(results, {"some": 70})
    assert chosen["some"].number == 0
    assert cheaper_and_better(results, chosen)["some"].number == 1
    assert cheaper_and_better(results[::2], chosen) == {}


def test_trials_that_are_not_complete_are_never_chosen(point: Point) -> None:
    stopped = point(0, 50, 0.9).replace(state=TrialState.STOPPED)
    assert choose([stopped], {"some": 70}) == {}
    assert choose([], {"some": 70}) == {}


def test_margin_over_the_control_of_the_same_budget(point: Point) -> None:
    results = [point(0, 69, 0.6, origin=Origin.CONTROL, budget=70), point(1, 99, 0.9, origin=Origin.CONTROL, budget=100)]
    results.append(point(2, 65, 0.75, budget=70))
    against = against_control(results, {"some": 70}, "some")
    assert against is not None
    assert (against.chosen, against.control, round(against.margin, 9), against.beaten) == (2, 0, 0.15, True)


def test_control_that_is_itself_chosen_is_not_beaten(point: Point) -> None:
    results = [point(0, 69, 0.8, origin=Origin.CONTROL, budget=70), point(1, 65, 0.75)]
    against = against_control(results, {"some": 70}, "some")
    assert against is not None
    assert not against.beaten


def test_without_a_complete_control_there_is_nothing_to_compare(point: Point) -> None:
    failed = point(0, 69, 0.8, origin=Origin.CONTROL, budget=70).replace(state=TrialState.FAILED)
    assert against_control([failed, point(1, 65, 0.75)], {"some": 70}, "some") is None


def test_nothing_above_a_limit_is_chosen_and_the_next_best_takes_its_place(point: Point) -> None:
    results = [
        point(0, 69, 0.9, budget=70).replace(params=30, latency_ms=4.0),
        point(1, 68, 0.8, budget=70).replace(params=10, latency_ms=4.9),
        point(2, 67, 0.7, budget=70).replace(params=10, latency_ms=4.0),
        point(3, 66, 0.6, budget=70).replace(params=10),
    ]

    def number(limits: CostLimits, results: list[TrialResult] = results) -> int | None:
        chosen = choose(results, {"some": 70}, limits).get("some")
        return None if chosen is None else chosen.number

    assert number(CostLimits()) == 0
    assert number(CostLimits(params=20)) == 1
    assert number(CostLimits(latency_ms=4.5)) == 0
    assert number(CostLimits(params=20, latency_ms=4.5)) == 2
    # What was measured counts for more than what was predicted.
    measured = [results[0], results[1].replace(latency_measured_ms=4.4), results[2].replace(latency_measured_ms=4.6)]
    assert number(CostLimits(params=20, latency_ms=4.5), measured) == 1
    assert number(CostLimits(params=5)) is None


def test_the_front_over_latency_is_another_than_that_over_flops(point: Point) -> None:
    results = [point(0, 60, 0.9).replace(latency_ms=5.0), point(1, 50, 0.8).replace(latency_ms=6.0), point(2, 40, 0.7)]
    assert [r.number for r in ParetoFront.of(results).results] == [2, 1, 0]
    assert [r.number for r in ParetoFront.of(results, cost="latency_ms").results] == [0]
