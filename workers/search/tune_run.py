"""Ray Tune over a `StoreSearcher`: what it is asked to do, and what it is kept from doing."""

from __future__ import annotations

import contextlib
import tempfile

from ray import tune

from autoslim.core.job import Resources
from workers.search.tune_searcher import LostWorkers, StoreScheduler, StoreSearcher

RETRIES = 3
"""A trial whose worker was lost (a node died, the system ran out of memory) is run again this often, from its checkpoint."""


def run_trials(
    trainable: type[tune.Trainable],
    searcher: StoreSearcher,
    *,
    name: str,
    resources: Resources,
    slots: int,
    relay: contextlib.AbstractContextManager[None],
) -> None:
    """Runs trials until the searcher has no more; within `relay` a signal ends them in order."""
    with tempfile.TemporaryDirectory(prefix="autoslim-tune-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": resources.cpu, "gpu": resources.gpu}),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=StoreScheduler(searcher),
                num_samples=-1,
                max_concurrent_trials=slots,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name=name,
                # Tune's own record is never read back; the store is.
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                callbacks=[LostWorkers(searcher)],
            ),
        )
        with relay:
            tuner.fit()
