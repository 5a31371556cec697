"""A trial that runs when the most that a search may take is reached: stopped with its checkpoint, and continued by a higher limit."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.workers_command import SEARCH, Search

from autoslim.core.result import TrialState
from autoslim.core.urls import default_url
from autoslim.store import Store
from workers.search.trial_index import CUT_SHORT

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

REQUEST = [word for word in SEARCH if word != "70%"]
REQUEST.pop(REQUEST.index("--flops"))
SECONDS = 230.0
"""For Ray's start, a trial's first epochs and what is kept; the trial itself would take far longer."""
LONG = (
    *REQUEST,
    "--epochs",
    "5000",
    "--trials",
    "1",
    "--speed",
    "none",
    "--forms",
    "none",
    "--max-hours",
    f"{SECONDS / 3600:.6f}",
)

UNAWARE = """
import sys
from workers.search import spending_guard
# As where the dense model needs no training: nothing says how long a trial takes, and it begins.
spending_guard._TEACHER = 0.0
from autoslim.cli import main
sys.argv[0] = "autoslim"
main()
"""


def test_a_trial_is_stopped_at_the_limit_and_goes_on_with_a_higher_one(tmp_path: Path) -> None:
    output, began = tmp_path / "run", time.monotonic()
    command = [sys.executable, "-c", UNAWARE, "search", *LONG, "--output", str(output)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert run.returncode == 3, run.stderr
    assert time.monotonic() - began < SECONDS
    assert "limits: " in run.stderr and "are kept for handing the models over" in run.stderr
    assert "1 running trial is stopped, --resume with a higher limit goes on" in run.stderr
    assert re.search(r"Spent      \d+m\d\ds of \d+m\d\ds \(.*s left\); the search ended: ", run.stdout)
    with Store(default_url(output)) as store:
        (stored,) = store.jobs()
        (result,) = store.trials(stored.job.id)
    assert (result.state, result.stopped) == (TrialState.STOPPED, CUT_SHORT)
    assert result.epochs is not None and result.epochs > 0
    assert 0 < stored.seconds < SECONDS
    assert list((output / "trials").glob("*/checkpoint/*"))

    more = Search("--resume", "--output", str(output), "--max-hours", "24")
    line = more.read_until(lambda line: "trial 0" in line and "epoch " in line)
    more.send(signal.SIGINT)
    assert more.end() == 130, more.text
    (epoch,) = re.findall(r"epoch (\d+(?:\.\d+)?)", line)
    assert float(epoch) > result.epochs
