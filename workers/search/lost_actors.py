"""`lost_actors_are_failures`: a trial whose actor is lost has failed, whatever error Ray gives for the loss.

Tune's manager of actors knows `RayActorError` and `RayTaskError`, and ends the whole search at any other error. Others are
`OutOfMemoryError`, when Ray's memory monitor ends a worker, and `NodeDiedError`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ray.air.execution._internal import RayActorManager
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune.execution import tune_controller


def as_actor_error(error: Exception) -> Exception:
    """The error of a lost actor where Ray says otherwise what was lost; its message begins with the name of Ray's own error, by which
    `CoordinatorSearcher` finds the reason. Every other error as it is."""
    if not isinstance(error, RayError) or isinstance(error, (RayActorError, RayTaskError)):
        return error
    kind = type(error)
    lost: Exception = RayActorError(error_msg=f"{kind.__module__}.{kind.__qualname__}: {error}")
    return lost


class LostActorManager(RayActorManager):  # type: ignore[misc]
    """Tune's manager of actors, to which every loss is that of an actor."""

    def _actor_start_failed(self, tracked_actor: Any, exception: Exception) -> None:
        super()._actor_start_failed(tracked_actor, as_actor_error(exception))

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        super()._actor_task_failed(tracked_actor_task, as_actor_error(exception))


@contextlib.contextmanager
def lost_actors_are_failures() -> Iterator[None]:
    """Within it Tune's controllers are made with a `LostActorManager`; they have no argument for it."""
    before = tune_controller.RayActorManager
    tune_controller.RayActorManager = LostActorManager
    try:
        yield
    finally:
        tune_controller.RayActorManager = before
