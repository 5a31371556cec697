"""`FollowClusterCallback`: lets a running search follow the cluster, whose nodes join and leave."""

from __future__ import annotations

import logging
from typing import Any

from ray.exceptions import RayError
from ray.tune import Callback

from workers.search.demand import Demand
from workers.search.slots import Slots
from workers.search.tune_searcher import CoordinatorSearcher

_log = logging.getLogger(__name__)


class FollowClusterCallback(Callback):  # type: ignore[misc]
    """Looks at the nodes every few seconds, between two steps of Tune's loop."""

    def __init__(self, searcher: CoordinatorSearcher, slots: Slots, demand: Demand) -> None:
        self._searcher, self._slots, self._demand = searcher, slots, demand

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if not self._slots.is_time():
            return
        try:
            self._follow(trials)
        except RayError as error:
            # The head does not answer, or restarts: whether trials can go on is for Tune to find out.
            _log.warning("cannot ask Ray for its nodes: %s", error)

    def _follow(self, trials: list[Any]) -> None:
        if self._slots.look():
            self._searcher.slots_changed()
        # A trial that waits is demand itself; a group would take the next place away from it.
        waits = any(trial.status == "PENDING" for trial in trials)
        self._demand.hold(self._slots.missing if self._searcher.wants_more() and not waits else 0)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        self._demand.hold(0)
