"""What `autoslim.search.pruners.base.Pruner` promises, for every pruner of the registry."""

from __future__ import annotations

import random

import pytest
from helpers.pruned_trials import finetuned, pruned, trial
from hypothesis import given
from hypothesis import strategies as st

from autoslim.core import job
from autoslim.core.result import EpochReport, Origin, TrialResult
from autoslim.errors import RequestError
from autoslim.search.pruners import PRUNERS, Pruner, make_pruner

EPOCHS = 9
Reports = list[tuple[TrialResult, EpochReport]]


@pytest.fixture(params=PRUNERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def pruner(name: str, epochs: float = EPOCHS) -> Pruner:
    return make_pruner(name, epochs=epochs, chance=0.1)


def curves(accuracies: list[float], flops: int = 100, *, first: int = 0) -> Reports:
    """Every report of trials that end at these accuracies, one trial after another."""
    return [
        (trial(first + index, flops), finetuned(float(epoch), accuracy - 0.1 + epoch / 90))
        for index, accuracy in enumerate(accuracies)
        for epoch in range(1, EPOCHS + 1)
    ]


def observed(name: str, reports: Reports) -> Pruner:
    made = pruner(name)
    for one in reports:
        made.observe(*one)
    return made


def test_the_registry_has_the_names_that_a_job_may_have() -> None:
    assert tuple(PRUNERS) == job.PRUNER_NAMES


def test_a_name_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(RequestError, match=r"'hyperband'; allowed: halving, median, none"):
        make_pruner("hyperband", epochs=9.0, chance=0.1)


@given(accuracies=st.lists(st.integers(0, 30), min_size=2, max_size=12), chance=st.randoms(use_true_random=False))
def test_a_decision_depends_on_the_reports_and_not_on_their_order(accuracies: list[int], chance: random.Random) -> None:
    reports = curves([accuracy / 30 for accuracy in accuracies])
    last = (trial(99, 100), finetuned(3.0, 0.4))
    shuffled = chance.sample(reports, len(reports))
    for name in PRUNERS:
        assert observed(name, reports).should_prune(*last) == observed(name, shuffled).should_prune(*last)


def test_a_resumed_search_decides_as_one_that_was_not_interrupted(name: str) -> None:
    """`should_prune` takes a report in as `observe` does."""
    draw = random.Random(0)
    reports = curves([draw.random() for _ in range(20)])
    whole, decisions = pruner(name), []
    for one in reports:
        decisions.append(whole.should_prune(*one))
    for interrupted in (5, 50, 150):
        resumed = observed(name, reports[:interrupted])
        assert [resumed.should_prune(*one) for one in reports[interrupted:]] == decisions[interrupted:]


def test_a_report_that_comes_again_counts_once_and_is_decided_alike(name: str) -> None:
    reports = curves([0.5, 0.6, 0.7, 0.8])
    made, last = observed(name, reports), (trial(9, 100), finetuned(3.0, 0.3))
    first = made.should_prune(*last)
    assert first == (None if name == "none" else first)
    assert [made.should_prune(*last) for _ in range(3)] == [first] * 3
    assert observed(name, reports * 2).should_prune(*last) == first


def test_a_trial_far_behind_those_of_its_flops_is_stopped_with_a_reason_unless_nothing_is(name: str) -> None:
    reason = observed(name, curves([0.7, 0.75, 0.8, 0.85])).should_prune(trial(9, 100), finetuned(3.0, 0.2))
    assert (reason is None) == (name == "none")
    assert reason is None or "accuracy 20.0%" in reason


def test_controls_and_trials_of_one_epoch_are_never_stopped(name: str) -> None:
    draw = random.Random(0)
    whole, single = pruner(name), pruner(name, epochs=1.0)
    for number in range(60):
        accuracy, origin = draw.random(), Origin.CONTROL if number % 2 else Origin.SAMPLER
        for epoch in range(10):
            report = pruned(accuracy) if epoch == 0 else finetuned(float(epoch), accuracy)
            reason = whole.should_prune(trial(number, 100, origin=origin), report)
            assert reason is None or origin == Origin.SAMPLER
        assert single.should_prune(trial(number, 100), pruned(accuracy)) is None
        assert single.should_prune(trial(number, 100), finetuned(1.0, accuracy)) is None


def test_a_trial_is_not_stopped_within_the_last_half_epoch(name: str) -> None:
    made = observed(name, curves([0.7, 0.75, 0.8, 0.85]))
    assert made.should_prune(trial(9, 100), finetuned(EPOCHS - 0.4, 0.2)) is None


def test_a_cheap_trial_is_never_stopped_for_being_behind_costlier_ones(name: str) -> None:
    made = observed(name, curves([0.9 + number / 1000 for number in range(20)], flops=1000))
    reports = [(trial(99, 300), pruned(0.12)), *((trial(99, 300), finetuned(float(epoch), 0.2)) for epoch in range(1, EPOCHS))]
    assert [made.should_prune(*one) for one in reports] == [None] * EPOCHS


@pytest.mark.parametrize("metrics", [{}, {"accuracy": float("nan")}, {"accuracy": float("inf")}])
def test_a_report_without_an_accuracy_decides_nothing(name: str, metrics: dict[str, float]) -> None:
    made = observed(name, curves([0.7, 0.75, 0.8, 0.85]))
    for report in (finetuned(3.0, 0.2), pruned(0.2)):
        assert made.should_prune(trial(9, 100), report.replace(metrics=metrics)) is None


@pytest.mark.parametrize("epochs", [0.5, 1.0, 3.0, 30.0])
def test_a_trial_is_expected_to_be_trained_for_less_the_more_there_are(name: str, epochs: float) -> None:
    expected = [pruner(name, epochs).expected_epochs(position) for position in range(1, 200)]
    assert expected[0] == epochs
    assert all(0 < value <= epochs for value in expected)
    assert (expected[-1] < epochs) == (name != "none" and epochs > 1)
