"""How many CPUs a process may use, and how many of them are idle."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoslim.core.cpus import busy_between, busy_cpus, idle_cpus, read_ticks, usable_cpus


@pytest.mark.parametrize(("text", "cpus"), [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("", 8), (None, 8)])
def test_a_container_may_use_fewer_cpus_than_the_machine_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, cpus: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)))
    quota = tmp_path / "cpu.max"
    if text is not None:
        quota.write_text(text)
    assert usable_cpus(quota) == cpus


@pytest.mark.parametrize(("busy", "cpus"), [(0.0, 8), (0.4, 8), (2.6, 5), (8.0, 1), (30.0, 1)])
def test_what_other_processes_keep_busy_is_not_idle_and_one_is_always_left(
    monkeypatch: pytest.MonkeyPatch, busy: float, cpus: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr("autoslim.core.cpus.usable_cpus", lambda: 8)
    assert idle_cpus(busy) == cpus
    # A container of two CPUs on this machine has both while as many are idle.
    monkeypatch.setattr("autoslim.core.cpus.usable_cpus", lambda: 2)
    assert idle_cpus(busy) == min(2, cpus)


BEFORE = """cpu  900 0 0 900 0 0 0 0 0 0
cpu0 100 10 20 500 5 0 1 0 0 0
cpu1 100 10 20 500 5 0 1 0 0 0
intr 24533051 0 0
"""


def test_busy_is_what_is_not_idle_on_the_cpus_that_the_process_is_bound_to() -> None:
    # cpu0 has computed for 20 of 25 ticks, cpu1 for none: it waited for a disk.
    after = BEFORE.replace("cpu0 100 10 20 500", "cpu0 115 10 25 505").replace("cpu1 100 10 20 500 5", "cpu1 100 10 20 500 30")
    ticks = read_ticks(BEFORE), read_ticks(after)
    assert busy_between(*ticks, {0, 1}) == busy_between(*ticks, {0}) == pytest.approx(0.8)
    assert busy_between(*ticks, {1}) == 0.0
    # A kernel that does not tell of a CPU, or whose numbers stand still.
    assert busy_between(*ticks, {0, 7}) is None
    assert busy_between(ticks[0], ticks[0], {0}) is None


def test_the_load_counts_where_the_kernel_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("autoslim.core.cpus._SECONDS", 0.0)
    monkeypatch.setattr("autoslim.core.cpus._STAT", tmp_path / "nowhere")
    monkeypatch.setattr("os.getloadavg", lambda: (2.6, 0.0, 0.0))
    assert busy_cpus() == 2.6
