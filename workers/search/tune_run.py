"""Runs Ray Tune over a `CoordinatorSearcher`: Tune places trials, the coordinator and the store decide everything else."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune import Callback

from autoslim.core.job import Resources
from workers.search.demand import Demand
from workers.search.elastic import FollowClusterCallback
from workers.search.lost_actors import LossInTelling, lost_actors_are_failures
from workers.search.nodes import elsewhere
from workers.search.own_credentials import own_credentials
from workers.search.slots import Slots
from workers.search.spending_guard import STOP_SECONDS
from workers.search.tune_searcher import CoordinatorScheduler, CoordinatorSearcher, LostWorkerCallback, StandstillCallback

_MANY = 10_000


def _place(resources: Resources) -> Callable[[dict[str, Any]], tune.PlacementGroupFactory]:
    """What a trial of this configuration takes, and where: not on the `full_nodes`."""

    def place(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        bundle = {"CPU": resources.cpu, "GPU": resources.gpu}
        return tune.PlacementGroupFactory([bundle], **elsewhere(config.get("full_nodes", ())))

    return place


class _StopWhen(tune.Stopper):  # type: ignore[misc]
    """Ends all trials. Tune asks it in every turn of its loop."""

    def __init__(self, is_up: Callable[[], bool]) -> None:
        self._is_up = is_up

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._is_up()

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles it with the experiment, which is never read."""
        return {"_is_up": None}


def run_trials(
    trainable: type[tune.Trainable],
    searcher: CoordinatorSearcher,
    *,
    name: str,
    resources: Resources,
    slots: Slots,
    shutdown: contextlib.AbstractContextManager[None],
    is_up: Callable[[], bool] = lambda: False,
) -> None:
    """Runs trials, as many at a time as `slots` has room for, until the searcher has no more, or `is_up`, which is asked all the time, says
    that what runs has to stop; inside `shutdown` a signal ends them in order."""
    # Tune waits so long for a trial's step before it kills the trial's worker.
    os.environ.setdefault("TUNE_FORCE_TRIAL_CLEANUP_S", f"{STOP_SECONDS:.0f}")
    # The searcher holds trials back for which there is no place. Without a number Tune would start one worker after another.
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", str(_MANY))
    loss = LossInTelling()
    callbacks: list[Callback] = [LostWorkerCallback(searcher, loss), StandstillCallback(searcher, resources)]
    if slots.follows:
        demand = Demand(resources, full=lambda: slots.full_nodes)
        callbacks.append(FollowClusterCallback(searcher, slots, demand))
    # Tune's own record of the experiment is never read, so that it goes to a folder that is deleted.
    with tempfile.TemporaryDirectory(prefix="autoslim-tune-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(trainable, _place(resources)),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=CoordinatorScheduler(searcher),
                num_samples=-1,
                # A worker takes seconds to import PyTorch and to open the images; the next trial finds both done.
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=scratch,
                verbose=0,
                stop=_StopWhen(lambda: searcher.over or is_up()),
                # The coordinator runs a trial again (`Coordinator.lost`).
                failure_config=tune.FailureConfig(max_failures=0),
                # A trial writes its own checkpoints, every epoch (`autoslim.training.checkpoint`).
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                callbacks=callbacks,
            ),
        )
        with shutdown, lost_actors_are_failures(loss), own_credentials():
            tuner.fit()
