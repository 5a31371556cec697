"""The table of `benchmarks/accuracy_goal.py` says what the searches found."""

from __future__ import annotations

import accuracy_goal


def test_medians_are_those_of_the_searches_that_found_a_model():
    found = {"the goal": [(0.40, 1.0), (0.44, 2.0), (0.50, 1.5)], "50 %": [None, (0.5, 1.0)], "80 %": [None]}
    _, _, goal, half, none = accuracy_goal.table_of(found).splitlines()
    assert goal == "| the goal | 44.0% | 40.0% to 50.0% | 1.50 | 0 of 3 |"
    assert half == "| 50 % | 50.0% | 50.0% to 50.0% | 1.00 | 1 of 2 |"
    assert none == "| 80 % |  |  |  | 1 of 1 |"
