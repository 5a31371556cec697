from __future__ import annotations

from collections.abc import Callable

from autoslim.core.result import Origin, ParetoFront, TrialResult, TrialState
from autoslim.search import against_control

Point = Callable[..., TrialResult]


def test_margin_over_the_control_of_the_same_budget(point: Point) -> None:
    results = [point(0, 69, 0.6, origin=Origin.CONTROL, budget=70), point(1, 99, 0.9, origin=Origin.CONTROL, budget=100)]
    results.append(point(2, 65, 0.75, budget=70))
    against = against_control(results, {"some": 70}, "some")
    assert against is not None
    assert (against.chosen, against.control, round(against.margin, 9)) == (2, 0, 0.15)


def test_the_margin_has_an_interval_where_the_images_are_known(point: Point) -> None:
    results = [point(0, 69, 0.6, origin=Origin.CONTROL, budget=70), point(1, 65, 0.7, budget=70)]
    few, many = (against_control(results, {"some": 70}, "some", images=images) for images in (50, 5000))
    assert few is not None
    assert many is not None
    assert few.describe().endswith(
        "(trial 0) by 10.00 points of validation accuracy (95 %: -8.59 to 28.59, unpaired), within the noise"
    )
    assert many.describe().endswith("(trial 0) by 10.00 points of validation accuracy (95 %: 8.14 to 11.86, unpaired)")


def test_control_that_is_itself_chosen_is_not_beaten(point: Point) -> None:
    results = [point(0, 69, 0.8, origin=Origin.CONTROL, budget=70), point(1, 65, 0.75)]
    against = against_control(results, {"some": 70}, "some")
    assert against is not None
    assert against.margin == 0


def test_a_control_of_a_smaller_budget_is_not_credited_to_the_search(point: Point) -> None:
    results = [point(0, 69, 0.6, origin=Origin.CONTROL, budget=70), point(1, 49, 0.9, origin=Origin.CONTROL, budget=50)]
    results.append(point(2, 65, 0.75, budget=70))
    against = against_control(results, {"some": 70}, "some")
    assert against is not None
    assert (against.chosen, against.control, against.margin) == (1, 1, 0.0)


def test_without_a_complete_control_there_is_nothing_to_compare(point: Point) -> None:
    failed = point(0, 69, 0.8, origin=Origin.CONTROL, budget=70).replace(state=TrialState.FAILED)
    assert against_control([failed, point(1, 65, 0.75)], {"some": 70}, "some") is None


def test_the_front_over_latency_is_another_than_that_over_flops(point: Point) -> None:
    results = [point(0, 60, 0.9).replace(latency_ms=5.0), point(1, 50, 0.8).replace(latency_ms=6.0), point(2, 40, 0.7)]
    assert [r.number for r in ParetoFront.of(results).results] == [2, 1, 0]
    assert [r.number for r in ParetoFront.of(results, cost="latency_ms").results] == [0]
