"""What a trial's time is divided into: nothing is counted twice, and the first trial, which starts its worker, stands by itself."""

from __future__ import annotations

import pytest
from trial_share import Spent, table


def test_overhead_is_what_is_neither_training_nor_a_fit_nor_evaluation() -> None:
    each = Spent(method="dps", whole=60.0, training=40.0, fit=10.0, evaluation=8.5, inside=1.0)
    assert each.overhead == pytest.approx(0.025)
    assert each.between == pytest.approx(0.5)


def test_the_first_trial_is_not_in_the_sum() -> None:
    slow = Spent(method="sit", whole=100.0, training=50.0, fit=0.0, evaluation=0.0, inside=5.0)
    rest = [Spent(method="dps", whole=60.0, training=45.0, fit=5.0, evaluation=9.0, inside=0.5)] * 2
    lines = table([slow, *rest]).splitlines()
    assert lines[2].startswith("| 0 sit, starts the worker | 100.0 |")
    assert lines[-1] == "| all but the first | 120.0 | 90.0 | 10.0 | 18.0 | 1.00 | 1.00 | **1.7%** |"
