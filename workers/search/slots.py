"""`Slots`: how many trials run at a time. On a cluster that was joined it follows the nodes while the search runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from autoslim.core.job import Resources
from workers.search.resources import Node, trials_on_nodes

_LOOK_EVERY = 5.0
"""Seconds between two looks at the nodes. One takes minutes to start, and to ask for them all takes milliseconds of Tune's loop."""

_FULL_SECONDS = 600.0
"""For which no trial goes to a node whose disk was full. Somebody may have made room by then; if not, a trial is lost there once more."""


class Slots:
    """How many trials Ray is given; its own scheduler places each.

    `most` trials are run at all, `concurrency` is what the user has asked for, and `follows` is whether `nodes` may join and leave. `clock`
    is in seconds.
    """

    def __init__(
        self,
        resources: Resources,
        *,
        most: int,
        concurrency: int | None,
        follows: bool,
        nodes: Callable[[], Sequence[Node]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resources, self._concurrency = resources, concurrency
        self._most = most if concurrency is None else min(most, concurrency)
        self.follows = follows
        self._nodes, self._clock = nodes, clock
        self._looked = clock()
        # When a trial last found the disk of a node full, by the node's id.
        self._full: dict[str, float] = {}
        self._fitting = self._count()

    @property
    def running(self) -> int:
        """How many trials run side by side on the nodes that there are; at least one, which waits where there is no node."""
        return max(1, min(self._fitting, self._most))

    @property
    def missing(self) -> int:
        """How many more an autoscaler is asked to find nodes for: as many as the user has asked for, or one, so that a pool grows by a
        node whenever it is full."""
        if not self.follows:
            return 0
        return min(self._most, self.running + 1 if self._concurrency is None else self._most) - self.running

    @property
    def full_nodes(self) -> list[str]:
        """Ids of the nodes where no trial can go now, because their disks are full."""
        now = self._clock()
        return sorted(node for node, then in self._full.items() if now - then < _FULL_SECONDS)

    def disk_is_full(self, node: str) -> bool:
        """No trial goes to the node of this id for a while. Whether trials fit on another one."""
        self._full[node] = self._clock()
        self._fitting = self._count()
        return self._fitting > 0

    def _count(self) -> int:
        full = self.full_nodes
        return trials_on_nodes(self._resources, [node for node in self._nodes() if node.id not in full])

    def is_time(self) -> bool:
        """Whether the last look at the nodes is some seconds old."""
        return self.follows and self._clock() - self._looked >= _LOOK_EVERY

    def look(self) -> bool:
        """Looks at the nodes. Whether another number of trials runs side by side now."""
        before, self._looked = self.running, self._clock()
        self._fitting = self._count()
        return self.running != before
