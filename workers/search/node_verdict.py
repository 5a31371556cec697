"""`NodeVerdict`: whether a worker was lost with its node, which says nothing of its work, or by itself.

Ray's own error for a lost worker depends on which of the two deaths it hears of first. So the cluster is asked for the node.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ray.exceptions import RayError

from workers.search.nodes import NodeState, node_state, own_node

_log = logging.getLogger(__name__)

_SETTLE_SECONDS = 20.0
"""For which a node has to be alive after its worker was lost: the head misses five answers, 3 s apart, of one that ends without notice. The
driver's own node has ended no more than the driver has."""
_UNANSWERED_SECONDS = 60.0
"""For which a head may not answer: one that restarts with its state has done so by then. Nobody can say afterwards, and the search must not
stand still for it: who places the trial again finds out."""
_LOOK_SECONDS = 1.0
"""Between two looks."""

REASONS = {
    NodeState.ALIVE: "its worker was lost",
    NodeState.DRAINING: "it had to leave its node",
    NodeState.LOST: "its node was lost",
}
"""For the user, why work is done again."""


class NodeVerdict:
    """Of the worker that was lost just now, on the node `node_id`; None is one that nobody knows, which is taken to be alive.

    `state` asks the cluster, `own` is the id of the driver's node, and `clock` is in seconds.
    """

    def __init__(
        self,
        node_id: str | None,
        *,
        state: Callable[[str], NodeState] = node_state,
        own: Callable[[], str] = own_node,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node_id, self._state, self._own, self._clock = node_id, state, own, clock
        self._looked = float("-inf")
        self._alive_since = self._unanswered_since = float("inf")

    def look(self) -> NodeState | None:
        """What became of the node; None where that is not known yet: ask again."""
        if self._node_id is None:
            return NodeState.ALIVE
        now = self._clock()
        if now - self._looked < _LOOK_SECONDS:
            return None
        self._looked = now
        try:
            state = self._state(self._node_id)
        except RayError as error:
            # The head restarts, or is gone. What it said before counts no more.
            _log.warning("cannot ask Ray for the node of a lost worker: %s", error)
            self._alive_since = float("inf")
            self._unanswered_since = min(self._unanswered_since, now)
            return NodeState.LOST if now - self._unanswered_since >= _UNANSWERED_SECONDS else None
        self._unanswered_since = float("inf")
        if state is not NodeState.ALIVE or self._node_id == self._own():
            return state
        self._alive_since = min(self._alive_since, now)
        return state if now - self._alive_since >= _SETTLE_SECONDS else None

    def wait(self, sleep: Callable[[float], object] = time.sleep) -> NodeState:
        """As `look`, as long as it takes."""
        while (state := self.look()) is None:
            sleep(_LOOK_SECONDS)
        return state
