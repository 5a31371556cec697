"""Rank 0 notices that another rank has ended, whatever it waits for itself."""

from __future__ import annotations

import contextlib
import datetime
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from autoslim.training import rank_watch
from autoslim.training.rank_watch import _NOTICE_SECONDS, RankWatch
from autoslim.training.ranks import LeadingRank, RankStart


class Ranks:
    """The processes of ranks 1 and 2, each with its exit code once it has ended, a clock, and what the watch has done."""

    def __init__(self) -> None:
        self.now = 0.0
        self.codes: list[int | None] = [None, None]
        self.killed: list[int] = []
        self.ended: list[str] = []
        self.watch = RankWatch(self._processes, end=self.ended.append, clock=lambda: self.now)

    def _processes(self) -> list[Any]:
        return [
            SimpleNamespace(poll=lambda code=code: code, kill=lambda rank=rank: self.killed.append(rank))
            for rank, code in enumerate(self.codes, 1)
        ]

    def look(self, *, after: float) -> list[str]:
        self.now += after
        self.watch.look()
        return self.ended


@pytest.mark.faults
def test_a_rank_that_has_ended_ends_the_others_and_rank_0_which_does_not_notice() -> None:
    ranks = Ranks()
    assert ranks.look(after=1000) == []
    ranks.codes[1] = -9
    assert ranks.look(after=1) == []
    assert ranks.look(after=_NOTICE_SECONDS - 1) == []
    assert ranks.killed == []
    assert ranks.look(after=1) == ["rank 2 of 3 was ended by SIGKILL, and rank 0 waits for it"]
    assert ranks.killed == [1, 2]


def test_of_several_the_one_that_was_killed_is_the_cause() -> None:
    ranks = Ranks()
    ranks.codes = [1, -11]
    ranks.look(after=0)
    assert ranks.look(after=_NOTICE_SECONDS) == ["rank 2 of 3 was ended by SIGSEGV, and rank 0 waits for it"]


def test_a_checkpoint_that_rank_0_writes_is_not_lost_with_a_rank_and_the_rank_is_noticed_behind_it() -> None:
    ranks = Ranks()
    ranks.codes[0] = 1
    ranks.look(after=0)
    with ranks.watch.paused():
        assert ranks.look(after=10 * _NOTICE_SECONDS) == []
    assert ranks.look(after=1) == []
    assert ranks.look(after=_NOTICE_SECONDS) == ["rank 1 of 3 has ended with exit code 1, and rank 0 waits for it"]


def test_it_looks_while_rank_0_works_with_the_others_and_not_when_that_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_watch, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(rank_watch, "_NOTICE_SECONDS", 0.0)
    ranks, ended = Ranks(), threading.Event()
    ranks.codes[0] = -9
    watch = RankWatch(ranks._processes, end=lambda reason: ended.set())
    with contextlib.suppress(ZeroDivisionError), watch.looking():
        assert ended.wait(10)
        raise ZeroDivisionError
    ended.clear()
    time.sleep(0.05)
    assert not ended.is_set()


def test_rank_0_waits_minutes_for_the_others_and_they_wait_for_it_as_long_as_it_lives(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It writes checkpoints in the middle of a segment, which may take longer than a step ever does."""
    waits: dict[int, datetime.timedelta] = {}

    def join(backend: str, *, rank: int, timeout: datetime.timedelta, **named: Any) -> None:
        waits[rank] = timeout

    monkeypatch.setattr(dist, "init_process_group", join)
    starts: list[RankStart] = LeadingRank(3, base=tmp_path, dataset=tmp_path, teacher=None)._starts(tmp_path / "store")
    for start in starts:
        start.join()
    assert waits[0] == datetime.timedelta(minutes=5)
    assert waits[1] == waits[2] >= datetime.timedelta(days=1)
