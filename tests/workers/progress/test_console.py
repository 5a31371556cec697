"""What the console writes, and what of it is forwarded."""

from __future__ import annotations

import io

from helpers.sample_search import DENSE, make_job, make_recipe, make_result

from autoslim.core.result import Target, TrialState
from workers.progress.callbacks import SearchInfo
from workers.progress.console import Console


def test_messages_outside_of_trials_are_forwarded():
    stream, heard = io.StringIO(), []
    console = Console(make_job(), stream=stream, forward=heard.append)
    console.on_message("dense model: epoch 1/40")
    console.write("Ray dashboard")
    console.on_trial_start(make_result(0, TrialState.RUNNING), Target.FREE)
    assert heard == ["dense model: epoch 1/40"]
    assert len(stream.getvalue().splitlines()) == 3


def test_trials_that_still_run_when_the_search_ends_are_counted_among_all():
    stream = io.StringIO()
    console = Console(make_job(trials=2), stream=stream)
    for number in range(2):
        console.on_trial_start(make_result(number, TrialState.RUNNING), Target.FREE)
    console.on_trial_end(make_result(0), Target.FREE)
    console.on_search_end("2 trials", 1)
    console.on_trial_end(make_result(1), Target.FREE)
    assert "trial 1 (2/3 done)" in stream.getvalue().splitlines()[-1]


def test_a_line_ends_with_the_best_trial_for_each_budget_and_the_time_left():
    stream = io.StringIO()
    console = Console(make_job(), stream=stream)
    budgets = {"50%": make_recipe(0).budget, "1G": 10**9}
    console.on_search_start(SearchInfo(job=make_job(), budgets=budgets, base=DENSE, seconds_left=lambda: 90.0))
    console.on_trial_end(make_result(0, accuracy=0.9), "50%")
    assert stream.getvalue().endswith(" | best 50% 90.0% (trial 0) | about 1m30s left\n")
