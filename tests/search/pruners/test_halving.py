"""Asynchronous halving: who is compared with whom, and that nothing but the reports decides."""

from __future__ import annotations

import pytest
from helpers.pruned_trials import finetuned, pruned, trial
from hypothesis import given
from hypothesis import strategies as st

from autoslim.search import Pruner
from autoslim.search.pruners.base import after_epochs
from autoslim.search.pruners.halving import HalvingPruner, rung_epochs


def halving(epochs: float = 9.0) -> HalvingPruner:
    return HalvingPruner(epochs=epochs, chance=0.1)


def stopped(pruner: Pruner, points: list[tuple[int, float]], *, epoch: float = 1.0) -> list[int]:
    """Numbers of the trials that are stopped, when each in turn reports (flops, accuracy)."""
    decisions = [
        pruner.should_prune(trial(number, flops), finetuned(epoch, accuracy)) for number, (flops, accuracy) in enumerate(points)
    ]
    return [number for number, reason in enumerate(decisions) if reason is not None]


@pytest.mark.parametrize(("epoch", "text"), [(1.0, "after 1 epoch"), (1.04, "after 1 epoch"), (1.5, "after 1.5 epochs")])
def test_a_reasons_epochs_are_counted_as_they_are_shown(epoch, text):
    assert after_epochs(epoch) == text


@pytest.mark.parametrize(
    ("epochs", "rungs"), [(1, ()), (1.4, ()), (1.5, (1,)), (3, (1,)), (5, (1, 2)), (9, (1, 3)), (30, (4, 10)), (0.5, ())]
)
def test_rungs_are_where_a_trial_has_epochs_to_save(epochs, rungs):
    assert rung_epochs(epochs) == rungs


def test_the_best_third_at_equal_flops_goes_on():
    accuracies = [0.60, 0.70, 0.50, 0.80, 0.55, 0.75, 0.40]
    assert stopped(halving(), [(100, accuracy) for accuracy in accuracies]) == [2, 4, 6]


def test_the_reason_says_after_how_long_and_which_place():
    pruner = halving()
    for number, accuracy in enumerate((0.6, 0.7)):
        assert pruner.should_prune(trial(number, 100), finetuned(1.0, accuracy)) is None
    reason = pruner.should_prune(trial(2, 100), finetuned(1.0, 0.5))
    assert reason == "accuracy 50.0% after 1 epoch: place 3 of 3 within 10% of its FLOPs, only the first continues"
    for number, accuracy in enumerate((0.8, 0.9), start=3):
        assert pruner.should_prune(trial(number, 100), finetuned(1.5, accuracy)) is None
    reason = pruner.should_prune(trial(5, 100), finetuned(1.5, 0.5))
    assert reason == "accuracy 50.0% after 1.5 epochs: place 5 of 6 within 10% of its FLOPs, only the first 2 continue"


def test_the_first_trials_have_no_others_to_be_compared_with():
    assert stopped(halving(), [(100, 0.9), (100, 0.1)]) == []


def test_a_cheap_trial_is_never_compared_with_costlier_ones():
    costly = [(1000, 0.9 + i / 1000) for i in range(20)]
    assert stopped(halving(), [*costly, (300, 0.2)])[-1:] != [20]


def test_a_costly_trial_that_cheaper_ones_beat_is_stopped_without_a_band_of_its_own():
    cheap = [(100, 0.5), (200, 0.6), (300, 0.7)]
    assert stopped(halving(), [*cheap, (1000, 0.4)]) == [3]
    assert stopped(halving(), [*cheap[:2], (1000, 0.4)]) == []


@given(st.lists(st.tuples(st.integers(50, 200), st.integers(0, 30)), min_size=1, max_size=40))
def test_the_rungs_own_front_goes_on(points):
    pruner = halving()
    shown = [(flops, accuracy / 30) for flops, accuracy in points]
    for number in stopped(pruner, shown):
        flops, accuracy = shown[number]
        assert any(other <= flops and better > accuracy for other, better in shown[:number])


@given(st.lists(st.tuples(st.integers(50, 200), st.integers(0, 30)), min_size=3, max_size=30), st.randoms(use_true_random=False))
def test_a_decision_depends_on_the_reports_and_not_on_their_order(points, chance):
    reports = [(trial(number, flops), finetuned(1.0, accuracy / 30)) for number, (flops, accuracy) in enumerate(points)]
    last = reports.pop()
    decisions = set()
    for _ in range(3):
        pruner = halving()
        for one in reports:
            pruner.observe(*one)
        decisions.add(pruner.should_prune(*last))
        chance.shuffle(reports)
    assert len(decisions) == 1


def test_a_report_that_comes_again_is_decided_alike_and_counts_once():
    pruner = halving()
    others = [(trial(number, 100), finetuned(1.0, 0.5 + number / 100)) for number in range(5)]
    for one in others:
        pruner.observe(*one)
    worst = (trial(9, 100), finetuned(1.0, 0.3))
    first = pruner.should_prune(*worst)
    assert first is not None
    assert "place 6 of 6" in first
    assert pruner.should_prune(*worst) == first
    assert all(pruner.should_prune(*others[4]) is None for _ in range(3))


def test_straight_after_the_cut_only_recipes_of_the_same_method_are_compared():
    pruner = halving()
    for number in range(6):
        assert pruner.should_prune(trial(number, 100), pruned(0.6 + number / 100)) is None
    assert pruner.should_prune(trial(6, 100, method="sit"), pruned(0.1)) is None
    reason = pruner.should_prune(trial(7, 100), pruned(0.3))
    assert reason is not None
    assert "vit_slim" in reason


def test_after_the_cut_only_the_last_third_is_stopped_and_nobody_near_chance():
    pruner = halving()
    accuracies = [0.4, 0.9, 0.8, 0.7, 0.5, 0.6]
    goes_on = [pruner.should_prune(trial(number, 100), pruned(accuracy)) is None for number, accuracy in enumerate(accuracies)]
    assert goes_on == [True] * 6
    assert pruner.should_prune(trial(6, 100), pruned(0.45)) is not None
    pruner = halving()
    assert all(pruner.should_prune(trial(n, 100, method="sit"), pruned(0.19 - n / 100)) is None for n in range(10))


def test_training_before_the_cut_counts_and_a_late_report_stands_at_the_last_rung_it_passed():
    pruner = halving()
    for number in range(3):
        pruner.observe(trial(number, 100), finetuned(1.0, 0.7 + number / 100))
        pruner.observe(trial(number, 100), finetuned(3.0, 0.8 + number / 100))
    late = trial(5, 100)
    assert pruner.should_prune(late, pruned(0.2, epoch=2.6)) is None
    reason = pruner.should_prune(late, finetuned(3.6, 0.75))
    assert reason is not None
    assert "3.6 epochs" in reason


def test_a_trial_is_compared_once_at_a_rung():
    pruner = halving()
    for number in range(6):
        pruner.observe(trial(number, 100), finetuned(1.0, 0.5))
    assert pruner.should_prune(trial(7, 100), finetuned(1.0, 0.6)) is None
    assert pruner.should_prune(trial(7, 100), finetuned(2.0, 0.2)) is None
