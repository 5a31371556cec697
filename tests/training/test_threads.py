"""Torch's threads outside of a search."""

from __future__ import annotations

import pytest
import torch

from autoslim.training.threads import default_threads, describe_threads, torch_threads


def test_a_callers_own_number_is_set_again() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="inside"), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ValueError("inside")
    assert torch.get_num_threads() == before


def test_on_a_busy_machine_the_idle_cpus_are_used_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(4)))
    monkeypatch.setattr("autoslim.core.cpus.usable_cpus", lambda: 4)
    monkeypatch.setattr("autoslim.training.threads.usable_cpus", lambda: 4)
    monkeypatch.setattr("autoslim.core.cpus.busy_cpus", lambda: 2.9)
    assert default_threads() == 1
    assert describe_threads(1) == (
        "the machine is busy: training on the 1 of 4 CPUs that others leave idle; --threads sets another number"
    )
    assert describe_threads(4) == ""


def test_the_number_that_torch_was_given_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("autoslim.core.cpus.busy_cpus", lambda: 99.0)
    assert default_threads() == torch.get_num_threads()
    assert describe_threads(default_threads()) == ""
