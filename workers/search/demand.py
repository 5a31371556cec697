"""`Demand`: placement groups that wait for a node, by which an autoscaler sees that more trials could run.

They are no trials: one that waits would have been proposed without the results of those that end meanwhile, and would count as one that
runs. Ray removes them with the driver, however that ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray

from autoslim.core.job import Resources
from workers.search.nodes import elsewhere


class Demand:
    """Asks for places for trials of these `resources`, on none of the nodes whose ids `full` gives."""

    def __init__(self, resources: Resources, full: Callable[[], Sequence[str]] = tuple) -> None:
        self._full = full
        bundle = {"CPU": resources.cpu, "GPU": resources.gpu}
        self._bundle = {name: amount for name, amount in bundle.items() if amount > 0}
        self._groups: list[Any] = []

    def hold(self, places: int) -> None:
        """From now on so many places are asked for. One that Ray has found is given back, for a trial, and no other is asked for meanwhile:
        it would be found at once, in the same place."""
        found = [group for group in self._groups if ray.util.placement_group_table(group).get("state") == "CREATED"]
        waiting = [group for group in self._groups if group not in found]
        for group in [*found, *waiting[places:]]:
            ray.util.remove_placement_group(group)
        more = 0 if found or not self._bundle else places - len(waiting)
        self._groups = waiting[:places] + [self._ask() for _ in range(more)]

    def _ask(self) -> Any:
        return ray.util.placement_group([self._bundle], **elsewhere(self._full()))
