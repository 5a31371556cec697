"""autoslim's own search: the coordinator, proposer and scheduler that run under Ray Tune, over a store in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from autoslim.core.budget import Budget
from autoslim.core.job import DatasetSpec, ModelSpec, SearchJob
from autoslim.core.run_folder import RunFolder
from autoslim.search import FloorTarget, Proposer, first_share, make_pruner, prior_shares
from autoslim.search.prior import Prior
from autoslim.store import Store
from simulation.memory import MemoryStore
from simulation.world import World
from workers.search.coordinator import Coordinator


def our_search(
    world: World,
    *,
    trials: int,
    seed: int,
    store: Store | None = None,
    prior: Prior | None = None,
    budgets: Mapping[str, int] | None = None,
    **settings: Any,
) -> Coordinator:
    """`settings` are fields of the job that differ from the defaults; `prior` are trials of other models, which leave out the world's;
    `budgets` are multiply-accumulates by label, by default the world's.

    No share of the compute is kept for tuning the best recipes longer: the table knows of no longer trials.
    """
    budgets = world.budgets if budgets is None else budgets
    job = SearchJob(
        id="simulated",
        model=ModelSpec(name="simulated", weights="scratch"),
        dataset=DatasetSpec(source="simulated"),
        budgets=tuple(Budget.parse(label) for label in budgets),
        space=world.space_name,
        trials=trials,
        training=world.training,
        seed=seed,
        output="simulated",
        final_share=0.0,
        **settings,
    )
    proposer = Proposer(
        space=world.space,
        shape=world.shape,
        budgets=dict(budgets),
        training=world.training,
        seed=seed,
        sampler=job.sampler,
        prior=prior,
        floor=_floor(job, world, prior),
    )
    if store is not None:
        store.create_job(job)
        store.begin_attempt(job.id)
    kept = store or cast(Store, MemoryStore())
    pruner = make_pruner(job.scheduler, epochs=job.training.epochs, chance=world.surrogate.base.chance)
    return Coordinator(job, kept, proposer, RunFolder(Path("simulated")), (), pruner=pruner, base=world.surrogate.base)


def _floor(job: SearchJob, world: World, prior: Prior | None) -> FloorTarget | None:
    """As `workers.search.prepare.with_floor` makes it."""
    base = world.surrogate.base
    floor = job.floor(base.dense_accuracy)
    if floor is None or job.goal is None:
        return None
    lost = job.goal.drop_from(base.dense_accuracy)
    shares = {} if prior is None or lost is None else prior_shares(prior, lost, list(world.space.methods))
    return FloorTarget(
        floor=floor, dense_flops=world.dense_flops, dense_accuracy=base.dense_accuracy, first=first_share(shares.values())
    )
