"""The table of `benchmarks/accuracy_goal.py` says what the searches found."""

from __future__ import annotations

from pathlib import Path

import accuracy_goal
import pytest
from helpers.sample_search import make_job

from autoslim.core.accuracy_goal import AccuracyGoal
from autoslim.core.run_folder import RunFolder


def test_medians_are_those_of_the_searches_that_found_a_model():
    found = {"the goal": [(0.40, 1.0), (0.44, 2.0), (0.50, 1.5)], "50 %": [None, (0.5, 1.0)], "80 %": [None]}
    _, _, goal, half, none = accuracy_goal.table_of(found).splitlines()
    assert goal == "| the goal | 44.0% | 40.0% to 50.0% | 1.50 | 0 of 3 |"
    assert half == "| 50 % | 50.0% | 50.0% to 50.0% | 1.00 | 1 of 2 |"
    assert none == "| 80 % |  |  |  | 1 of 1 |"


def test_a_folder_of_another_goal_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AUTOSLIM_DATA", str(tmp_path))
    folder = tmp_path / "thegoal"
    folder.mkdir()
    RunFolder(folder).write_job(make_job(str(folder), budgets=(), goal=AccuracyGoal(max_drop=2.0)))
    with pytest.raises(SystemExit, match="was started with another goal"):
        accuracy_goal.trained("the goal", AccuracyGoal(max_drop=1.0), tmp_path, trials=24, images=6000, epochs=3.0)
