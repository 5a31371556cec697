"""What the console writes, and what of it is forwarded."""

from __future__ import annotations

import io

from helpers.sample_search import DENSE, make_job, make_recipe, make_report, make_result

from autoslim.core.result import Target, TrialState
from autoslim.progress.display import Display, LineDisplay
from autoslim.progress.status import Bar, Status
from workers.progress.callbacks import SearchInfo, SearchStage
from workers.progress.console import Console


def test_messages_outside_of_trials_are_forwarded():
    stream, heard = io.StringIO(), []
    console = Console(make_job(), LineDisplay(stream), forward=heard.append)
    console.on_message("dense model: epoch 1/40")
    console.write("Ray dashboard")
    console.on_trial_start(make_result(0, TrialState.RUNNING), Target.FREE)
    assert heard == ["dense model: epoch 1/40"]
    assert len(stream.getvalue().splitlines()) == 3


def test_what_the_cluster_does_to_trials_is_said_and_forwarded():
    stream, heard = io.StringIO(), []
    console = Console(make_job(), LineDisplay(stream), forward=heard.append)
    console.on_slots_change(3)
    console.on_slots_change(1)
    console.on_trial_lost(make_result(4, TrialState.RUNNING), "it had to leave its node")
    assert [line.partition(":")[0] for line in heard[:2]] == ["3 trials at a time from now on", "1 trial at a time from now on"]
    assert heard[2].startswith("trial 04 (0/")
    assert heard[2].endswith("goes on from its checkpoint: it had to leave its node")
    console.on_trial_opening(make_result(4, TrialState.RUNNING), "node 10.0.0.7: preparing images: 4 of 9")
    assert heard[3].endswith("does not train yet: node 10.0.0.7: preparing images: 4 of 9")
    assert len(stream.getvalue().splitlines()) == 4


def test_trials_that_still_run_when_the_search_ends_are_counted_among_all():
    stream = io.StringIO()
    console = Console(make_job(trials=2), LineDisplay(stream))
    for number in range(2):
        console.on_trial_start(make_result(number, TrialState.RUNNING), Target.FREE)
    console.on_trial_end(make_result(0), Target.FREE)
    console.on_search_end("2 trials", 1)
    console.on_trial_end(make_result(1), Target.FREE)
    assert "trial 1 (2/3 done)" in stream.getvalue().splitlines()[-1]


def test_a_line_ends_with_the_best_trial_for_each_budget_and_the_time_left():
    stream = io.StringIO()
    console = Console(make_job(), LineDisplay(stream))
    budgets = {"50%": make_recipe(0).budget, "1G": 10**9}
    console.on_search_start(SearchInfo(job=make_job(), budgets=budgets, base=DENSE, seconds_left=lambda: 90.0))
    console.on_trial_end(make_result(0, accuracy=0.9), "50%")
    assert stream.getvalue().endswith(" | best 50% 90.0% (trial 0) | about 1m30s left\n")


class Recorded(Display):
    def __init__(self) -> None:
        self.status, self.lines = Status(), list[str]()

    def line(self, text: str, *, status: str = "", style: str = "", at: str = "") -> None:
        self.lines.append(text)

    def show(self, status: Status) -> None:
        self.status = status


def test_a_display_with_bars_has_one_for_each_running_trial_the_best_of_each_budget_and_the_whole():
    display = Recorded()
    console = Console(make_job(trials=24), display)
    budgets = {"50%": make_recipe(0).budget, "1G": 10**9}
    console.on_search_start(SearchInfo(job=make_job(), budgets=budgets, base=DENSE, seconds_left=lambda: 90.0))
    for number in range(3):
        console.on_trial_start(make_result(number, TrialState.RUNNING), "50%")
    console.on_epoch_end(make_result(1, TrialState.RUNNING), make_report(2, images_per_second=352.0))
    console.on_trial_end(make_result(0, accuracy=0.9), "50%")
    first, second = display.status.running
    assert first == Bar(
        name="trial 01 life_regression 50%", done=2.0, total=3.0, facts=("2/3 epochs", "loss 0.667", "70.0%", "352 images/s")
    )
    assert second == Bar(name="trial 02 patch_slimming 50%")
    assert display.status.results == (("best 50%", "90.0% at 2.304G, trial 0 vit_slim"),)
    assert display.status.overall == Bar(name="1 of 24 trials", done=1, total=24)
    assert display.status.ends_at is not None
    assert [line for line in display.lines if "trial" in line] == [
        "trial 00 (1/24 done) vit_slim ends: accuracy 90.0% at 2.304G in 1m02s"
    ]


def test_bars_say_what_is_left_of_the_limits():
    display = Recorded()
    console = Console(make_job(trials=24), display)
    info = SearchInfo(job=make_job(), budgets={}, base=DENSE, unspent=lambda: "1h30m, 20.00 in money unspent")
    console.on_search_start(info)
    assert display.status.overall is not None
    assert display.status.overall.facts == ("1h30m, 20.00 in money unspent",)
    console.on_wait("no node has a GPU")
    assert display.status.overall.facts == ("trials wait", "1h30m, 20.00 in money unspent")


def test_where_time_ends_the_search_the_whole_is_that_of_time():
    display = Recorded()
    console = Console(make_job(max_seconds=60.0), display)
    console.on_search_start(SearchInfo(job=make_job(), budgets={}, base=DENSE, seconds_left=lambda: 30.0))
    overall = display.status.overall
    assert overall is not None
    assert overall.name == "0 trials"
    assert overall.total is not None
    assert 30.0 <= overall.total < 35.0
    console.on_wait("no node has a GPU")
    assert display.status.overall is not None
    assert display.status.overall.facts == ("trials wait",)


def test_the_models_at_the_end_and_the_dense_model_have_a_bar():
    display, heard = Recorded(), list[str]()
    console = Console(make_job(), display, forward=heard.append)
    console.on_base_epoch("dense model", make_report(3), 40.0)
    assert display.status.running[0].name == "dense model"
    assert (display.status.running[0].done, display.status.running[0].total) == (3.0, 40.0)
    assert heard == ["dense model: epoch 3/40, finetune, loss 0.500, accuracy 80.0%"]
    console.on_stage_start(SearchStage.FINALIZING)
    assert display.status.running == (Bar(name="evaluating and exporting"),)
