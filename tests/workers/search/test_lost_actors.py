"""Whatever Ray says of a lost actor, its trial fails and the search goes on."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import pytest
from ray.air.execution._internal import RayActorManager, TrackedActor
from ray.air.execution._internal.tracked_actor_task import TrackedActorTask
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RayActorError
from ray.tune.execution import tune_controller

from workers.search import lost_actors
from workers.search.lost_actors import LossInTelling, LostActorManager, as_actor_error, lost_actors_are_failures

LOW = OutOfMemoryError("Task was killed due to the node running low on memory.")


def lose(manager_class: type[RayActorManager], error: Exception) -> SimpleNamespace:
    """What the callbacks of a live actor and of its task are given when the task fails with `error`."""
    told = SimpleNamespace(actor=[], task=[], freed=[])
    manager = manager_class(SimpleNamespace(free_resources=lambda acquired_resource: told.freed.append(acquired_resource)))
    actor = TrackedActor(7, on_error=lambda _, found: told.actor.append(found))
    manager._live_actors_to_ray_actors_resources[actor] = (None, "its place")
    manager._actor_task_failed(TrackedActorTask(actor, on_error=lambda _, found: told.task.append(found)), error)
    assert manager.is_actor_failed(actor)
    assert manager.live_actors == []
    return told


def test_rays_manager_would_end_the_search():
    """Where this fails, Ray does by itself what `LostActorManager` is for."""
    with pytest.raises(RuntimeError, match="unexpected exception"):
        lose(RayActorManager, LOW)


@pytest.mark.parametrize("error", [LOW, NodeDiedError("the node is gone"), ActorDiedError()])
def test_a_loss_of_any_kind_fails_the_trial_and_frees_its_place(error: Exception):
    told = lose(LostActorManager, error)
    (of_actor,), (of_task,) = told.actor, told.task
    assert of_actor is of_task
    assert isinstance(of_actor, RayActorError)
    assert str(error) in str(of_actor)
    assert told.freed == ["its place"]


def test_an_actor_that_is_lost_while_it_starts_has_the_same_reason():
    told: list[Exception] = []
    manager = LostActorManager(SimpleNamespace(free_resources=lambda acquired_resource: None))
    actor = TrackedActor(7, on_error=lambda _, found: told.append(found))
    manager._live_actors_to_ray_actors_resources[actor] = (None, None)
    manager._actor_start_failed(actor, LOW)
    assert str(told[0]) == f"ray.exceptions.OutOfMemoryError: {LOW}"


def test_the_error_survives_the_pickle_that_tune_keeps_of_it():
    assert str(pickle.loads(pickle.dumps(as_actor_error(LOW)))) == str(as_actor_error(LOW))


def test_errors_of_our_own_stay_what_they_are():
    error = RuntimeError("a fault of the search's")
    assert as_actor_error(error) is error


def test_tunes_controller_takes_the_manager_by_its_name():
    assert "RayActorManager" in tune_controller.TuneController.__init__.__code__.co_names
    with lost_actors_are_failures(LossInTelling()):
        assert isinstance(tune_controller.RayActorManager(resource_manager=SimpleNamespace()), LostActorManager)
    assert tune_controller.RayActorManager is RayActorManager


def placed(monkeypatch: pytest.MonkeyPatch, place: SimpleNamespace) -> LostActorManager:
    """A manager with one actor, for which a place is found; `place.node_id` is where Ray says that it is."""
    monkeypatch.setattr(lost_actors, "node_of_place", lambda group: group.node_id)
    manager = LostActorManager(SimpleNamespace(free_resources=lambda acquired_resource: None), loss=place.loss)
    actor = TrackedActor(7, on_error=lambda _, found: place.told.append(place.loss.node_id))
    manager._live_actors_to_ray_actors_resources[actor] = (None, SimpleNamespace(placement_group=place))
    manager._try_start_actors()
    return manager


@pytest.mark.faults
def test_a_loss_is_told_with_the_node_that_the_actor_was_on_and_not_with_that_of_its_next_place(monkeypatch: pytest.MonkeyPatch):
    place = SimpleNamespace(node_id="own", loss=LossInTelling(), told=[])
    manager = placed(monkeypatch, place)
    (actor,) = manager.live_actors
    place.node_id = "next"
    manager._try_start_actors()
    task = TrackedActorTask(actor, on_error=lambda _, found: place.told.append(place.loss.node_id))
    manager._actor_task_failed(task, ActorDiedError())
    assert place.told == ["own", "own"]
    assert place.loss.node_id is None


def test_an_actor_that_is_lost_before_it_has_started_was_on_a_node_too(monkeypatch: pytest.MonkeyPatch):
    place = SimpleNamespace(node_id="own", loss=LossInTelling(), told=[])
    manager = placed(monkeypatch, place)
    manager._actor_start_failed(*manager.live_actors, ActorDiedError())
    assert place.told == ["own"]


def test_an_actor_is_where_its_place_is_when_its_process_has_started(monkeypatch: pytest.MonkeyPatch):
    place = SimpleNamespace(node_id="lost meanwhile", loss=LossInTelling(), told=[])
    manager = placed(monkeypatch, place)
    (actor,) = manager.live_actors
    place.node_id = "own"
    manager._tracked_actors_to_state_futures[actor].add("ready")
    manager._actor_start_resolved(actor, "ready")
    manager._actor_task_failed(TrackedActorTask(actor), ActorDiedError())
    assert place.told == ["own"]


def test_where_an_actor_is_stays_known_where_ray_does_not_say_it_again(monkeypatch: pytest.MonkeyPatch):
    place = SimpleNamespace(node_id="own", loss=LossInTelling(), told=[])
    manager = placed(monkeypatch, place)
    (actor,) = manager.live_actors
    place.node_id = None
    manager._tracked_actors_to_state_futures[actor].add("ready")
    manager._actor_start_resolved(actor, "ready")
    manager._actor_task_failed(TrackedActorTask(actor), ActorDiedError())
    assert place.told == ["own"]
