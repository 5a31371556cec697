"""Ranks that are threads of this process: as quick as one rank, for what does not draw from torch's one generator."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from autoslim.training.rank_group import RankGroup

T = TypeVar("T")
_SECONDS = 60.0


class _Meeting:
    def __init__(self, ranks: int) -> None:
        self.values: list[Tensor | None] = [None] * ranks
        self.barrier = threading.Barrier(ranks, timeout=_SECONDS)


class ThreadGroup(RankGroup):
    def __init__(self, rank: int, ranks: int, meeting: _Meeting) -> None:
        super().__init__(rank, ranks)
        self._meeting = meeting

    def _reduce(self, values: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        self._meeting.values[self.share.rank] = values.detach().clone()
        self._meeting.barrier.wait()
        every = torch.stack([value for value in self._meeting.values if value is not None])
        # Nobody writes the next values before all have read these.
        self._meeting.barrier.wait()
        return values.copy_(every.sum(0) if operation == dist.ReduceOp.SUM else every.amax(0))


def on_ranks(ranks: int, run: Callable[[RankGroup], T]) -> list[T]:
    """What `run` returns on each rank."""
    meeting = _Meeting(ranks)

    def guarded(group: RankGroup) -> T:
        try:
            return run(group)
        except BaseException:
            # The others would wait for this one.
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(guarded, [ThreadGroup(rank, ranks, meeting) for rank in range(ranks)]))
