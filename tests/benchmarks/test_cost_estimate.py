"""How the benchmark of estimates reads a search's output."""

from __future__ import annotations

import cost_estimate
import pytest

LINES = [
    cost_estimate.Line(10.0, "12:00:10 trial 0 (0/4 done) sit starts: budget 50%"),
    cost_estimate.Line(
        40.0, "12:00:40 trial 0 (1/4 done) sit ends: accuracy 50.0% at 1M in 9s | best 50% 50.0% | about 1m05s left"
    ),
    cost_estimate.Line(
        61.0, "12:01:01 trial 1 (2/4 done) sit ends: accuracy 50.0% at 1M in 9s | best 50% 50.0% | about 35s left"
    ),
    cost_estimate.Line(90.0, "12:01:30 evaluating one model"),
]


def test_the_time_left_is_compared_at_the_first_line_with_an_estimate() -> None:
    assert cost_estimate.left(LINES, 100.0, 0.2) == (65.0, 60.0)
    assert cost_estimate.left(LINES, 100.0, 0.5) == (35.0, 39.0)


def test_a_search_without_an_estimate_is_an_error() -> None:
    with pytest.raises(ValueError, match="no line has an estimate after 75% of 100 seconds"):
        cost_estimate.left(LINES, 100.0, 0.75)


def test_a_case_has_five_rows() -> None:
    plan = {"device": "CPU", "device_hours": 0.02, "seconds": 80.0, "bytes": 2_000_000}
    summary = {"cost": {"device_hours": 0.025, "bytes": 2_500_000}}
    rows = cost_estimate.rows(cost_estimate.Case("x", ()), {"plan": plan, "summary": summary, "seconds": 100.0, "lines": LINES})
    assert rows[0] == "| x | wall time, s | 80 | 100 | 0.80 |"
    assert rows[1] == "| x | CPU hours | 0.02 | 0.025 | 0.80 |"
    assert rows[4] == "| x | left after half of it, s | 35 | 39 | 0.90 |"
