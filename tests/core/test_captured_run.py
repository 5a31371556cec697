"""A program has ended when its own process has, whatever that has left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from autoslim.core.captured_run import run_captured

LEAVES_A_CHILD = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
sys.exit("it ended itself")
"""


def test_a_run_ends_with_its_process_though_a_child_of_it_hangs_with_its_output() -> None:
    run = run_captured([sys.executable, "-S", "-c", LEAVES_A_CHILD], timeout=60)
    # Raises where there is no such process.
    os.kill(int(run.stdout), signal.SIGKILL)
    assert (run.returncode, run.stderr) == (1, "it ended itself\n")


def test_a_run_that_takes_too_long_is_ended() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run_captured([sys.executable, "-S", "-c", "import time; time.sleep(600)"], timeout=0.1)
