"""`lost_actors_are_failures`: a trial whose actor is lost has failed, whatever error Ray gives for the loss; and where it was.

Tune's manager of actors knows `RayActorError` and `RayTaskError`, and ends the whole search at any other error. Others are
`OutOfMemoryError`, when Ray's memory monitor ends a worker, and `NodeDiedError`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from ray.air.execution._internal import RayActorManager
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune.execution import tune_controller

from workers.search.nodes import node_of_place


def as_actor_error(error: Exception) -> Exception:
    """The error of a lost actor where Ray says otherwise what was lost; its message begins with the name of Ray's own error, by which
    `CoordinatorSearcher` finds the reason. Every other error as it is."""
    if not isinstance(error, RayError) or isinstance(error, (RayActorError, RayTaskError)):
        return error
    kind = type(error)
    lost: Exception = RayActorError(error_msg=f"{kind.__module__}.{kind.__qualname__}: {error}")
    return lost


@dataclasses.dataclass
class LossInTelling:
    """While Tune is told that an actor has failed, which it passes on at once, `node_id` is that of the node that the actor was on; None
    else, and where Ray does not know it."""

    node_id: str | None = None

    @contextlib.contextmanager
    def on(self, node_id: str | None) -> Iterator[None]:
        self.node_id = node_id
        try:
            yield
        finally:
            self.node_id = None


class LostActorManager(RayActorManager):  # type: ignore[misc]
    """Tune's manager of actors, to which every loss is that of an actor. It knows each actor's node from the start of its process, since a
    place whose node is lost is soon one on another node."""

    def __init__(self, resource_manager: Any, *, loss: LossInTelling | None = None) -> None:
        super().__init__(resource_manager)
        self._loss = LossInTelling() if loss is None else loss
        # By Tune's ids of the actors.
        self._nodes: dict[int, str | None] = {}

    def _try_start_actors(self, max_actors: int | None = None) -> int:
        started: int = super()._try_start_actors(max_actors=max_actors)
        for actor in self.live_actors:
            if actor.actor_id not in self._nodes:
                self._note_node(actor)
        return started

    def _actor_start_resolved(self, tracked_actor: Any, future: Any) -> None:
        # Between the two its place may have been lost, and found on another node.
        self._note_node(tracked_actor)
        super()._actor_start_resolved(tracked_actor, future)

    def _note_node(self, tracked_actor: Any) -> None:
        _, place = self._live_actors_to_ray_actors_resources[tracked_actor]
        group = getattr(place, "placement_group", None)
        found = None if group is None else node_of_place(group)
        # What is known stays, where Ray does not say: the node may have been lost just now.
        if found is not None or tracked_actor.actor_id not in self._nodes:
            self._nodes[tracked_actor.actor_id] = found

    def _actor_start_failed(self, tracked_actor: Any, exception: Exception) -> None:
        with self._loss.on(self._nodes.get(tracked_actor.actor_id)):
            super()._actor_start_failed(tracked_actor, as_actor_error(exception))

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        with self._loss.on(self._nodes.get(tracked_actor_task._tracked_actor.actor_id)):
            super()._actor_task_failed(tracked_actor_task, as_actor_error(exception))

    def _cleanup_actor(self, tracked_actor: Any) -> None:
        self._nodes.pop(tracked_actor.actor_id, None)
        super()._cleanup_actor(tracked_actor)


@contextlib.contextmanager
def lost_actors_are_failures(loss: LossInTelling) -> Iterator[None]:
    """Within it Tune's controllers are made with a `LostActorManager`; they have no argument for it. `loss` says where an actor was."""
    before = tune_controller.RayActorManager
    tune_controller.RayActorManager = functools.partial(LostActorManager, loss=loss)
    try:
        yield
    finally:
        tune_controller.RayActorManager = before
