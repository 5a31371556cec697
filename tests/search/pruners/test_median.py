"""Median stopping: a trial is compared with finished ones of its FLOPs."""

from __future__ import annotations

import itertools

from helpers.pruned_trials import finetuned, trial

from autoslim.search import make_pruner


def test_median_stopping_holds_a_trial_against_finished_ones_of_its_flops():
    median = make_pruner("median", epochs=3.0, chance=0.1)
    for number, epoch in itertools.product(range(4), (1.0, 2.0, 3.0)):
        median.observe(trial(number, 100), finetuned(epoch, 0.5 + number / 10 + epoch / 100))
    assert median.should_prune(trial(5, 100), finetuned(1.0, 0.7)) is None
    reason = median.should_prune(trial(6, 100), finetuned(1.0, 0.6))
    assert reason is not None
    assert "median of 4 finished" in reason
    assert median.should_prune(trial(7, 50), finetuned(1.0, 0.2)) is None
    assert median.should_prune(trial(8, 100), finetuned(2.8, 0.1)) is None
