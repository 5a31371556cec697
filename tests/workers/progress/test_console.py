import io

from helpers.sample_search import make_job, make_result

from autoslim.core.result import Target, TrialState
from workers.progress.console import Terminal


def test_what_is_said_outside_of_trials_is_heard_elsewhere_too():
    stream, heard = io.StringIO(), []
    terminal = Terminal(make_job(), budgets={}, slots=1, stream=stream, tell=heard.append)
    terminal.say("dense model: epoch 1/40")
    terminal.note("Ray dashboard")
    terminal.trial_begins(make_result(0, TrialState.RUNNING), Target.FREE)
    assert heard == ["dense model: epoch 1/40"]
    assert len(stream.getvalue().splitlines()) == 3


def test_trials_that_still_run_when_the_search_ends_are_counted_among_all():
    stream = io.StringIO()
    terminal = Terminal(make_job(trials=2), budgets={}, slots=2, stream=stream)
    for number in range(2):
        terminal.trial_begins(make_result(number, TrialState.RUNNING), Target.FREE)
    terminal.trial_ends(make_result(0), Target.FREE)
    terminal.search_ends("2 trials", 1)
    terminal.trial_ends(make_result(1), Target.FREE)
    assert "trial 1 (2/3 done)" in stream.getvalue().splitlines()[-1]
