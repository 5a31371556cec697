"""How many CPUs a process may use, and how many of them are idle."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoslim.core.cpus import idle_cpus, usable_cpus


@pytest.mark.parametrize(("text", "cpus"), [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("", 8), (None, 8)])
def test_a_container_may_use_fewer_cpus_than_the_machine_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, cpus: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)))
    quota = tmp_path / "cpu.max"
    if text is not None:
        quota.write_text(text)
    assert usable_cpus(quota) == cpus


@pytest.mark.parametrize(("load", "cpus"), [(0.0, 8), (0.4, 8), (2.6, 5), (8.0, 1), (30.0, 1)])
def test_what_other_processes_keep_busy_is_not_idle_and_one_is_always_left(
    monkeypatch: pytest.MonkeyPatch, load: float, cpus: int
) -> None:
    monkeypatch.setattr("autoslim.core.cpus.usable_cpus", lambda: 8)
    assert idle_cpus(load) == cpus
