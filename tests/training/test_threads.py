"""Torch's threads outside of a search."""

from __future__ import annotations

import pytest
import torch

from autoslim.training.threads import default_threads, describe_threads, idle_threads, torch_threads


def test_a_callers_own_number_is_set_again() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="inside"), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ValueError("inside")
    assert torch.get_num_threads() == before


@pytest.fixture
def busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of four CPUs is idle."""
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(4)))
    monkeypatch.setattr("autoslim.core.cpus.usable_cpus", lambda: 4)
    monkeypatch.setattr("autoslim.training.threads.usable_cpus", lambda: 4)
    monkeypatch.setattr("autoslim.core.cpus.busy_cpus", lambda: 2.9)


def test_on_a_busy_machine_the_idle_cpus_are_used_and_said(busy_machine: None) -> None:
    assert default_threads() == 1
    assert describe_threads(1) == (
        "the machine is busy: training on the 1 of 4 CPUs that others leave idle; --threads sets another number"
    )
    assert describe_threads(4) == ""


def test_what_only_evaluates_leaves_the_other_cpus_alone_too(busy_machine: None) -> None:
    before, told = torch.get_num_threads(), list[str]()
    torch.set_num_threads(2)
    try:
        with idle_threads(told.append):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert told == [
        "the machine is busy: computing on the 1 of 4 CPUs that others leave idle; OMP_NUM_THREADS sets another number"
    ]


def test_the_number_that_torch_was_given_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("autoslim.core.cpus.busy_cpus", lambda: 99.0)
    assert default_threads() == torch.get_num_threads()
    assert describe_threads(default_threads()) == ""
