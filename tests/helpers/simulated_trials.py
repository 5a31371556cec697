"""Trials that take no time: synthetic accuracies by recipe, run through the coordinator one at a time, as by one worker."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from autoslim.core.job import SearchJob
from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe
from autoslim.core.result import BaseFacts, EpochReport, Outcome, Phase
from autoslim.core.run_folder import RunFolder
from autoslim.core.shape import ViTShape
from autoslim.cost import predict
from autoslim.search import FloorTarget, Proposer, load_space, make_pruner
from autoslim.store import Store
from workers.progress.callbacks import SearchCallback
from workers.search.coordinator import Coordinator, TrialAssignment

SHAPE = ViTShape(
    image_size=(16, 16), grid=(4, 4), patch_inputs=48, prefix_tokens=1, depth=4, dim=32, heads=2, head_width=16, hidden=128,
    classes=10, classifiers=1, pool="token", pre_norm=False, final_norm=True, pooled_norm=False, qk_norm=False,
)  # fmt: skip
DENSE_FLOPS = predict(SHAPE, Plan.dense(SHAPE)).total
CHANCE = 0.1
BASE = BaseFacts(dense_flops=DENSE_FLOPS, dense_accuracy=0.95, params=1000, chance=CHANCE)


class Killed(BaseException):
    """Stands for `kill -9`: a BaseException, so that no handler of ours catches it."""


def make_coordinator(
    job: SearchJob, store: Store, root: Path, callbacks: Sequence[SearchCallback] = (), **changes: Any
) -> Coordinator:
    """Of a first attempt, or of one that continues with the trials in the store."""
    if job.id not in {stored.job.id for stored in store.jobs()}:
        store.create_job(job)
    store.begin_attempt(job.id)
    pruner = make_pruner(job.scheduler, epochs=job.training.epochs, chance=CHANCE)
    return Coordinator(job, store, make_proposer(job), RunFolder(root), tuple(callbacks), pruner=pruner, base=BASE, **changes)


_proposers: dict[str, Proposer] = {}


def make_proposer(job: SearchJob) -> Proposer:
    """Working out what a space can reach takes a second, so that it is done once for all tests."""
    budgets = {budget.label: budget.resolve(DENSE_FLOPS) for budget in job.budgets}
    key = f"{budgets}"
    if key not in _proposers:
        _proposers[key] = Proposer(space=load_space("smoke"), shape=SHAPE, budgets=budgets, training=job.training, seed=0)
    # `dataclasses.replace` would work it out again.
    proposer = copy.copy(_proposers[key])
    for made in ("builder", "feasible_methods", "_allocator", "_sampler"):
        proposer.__dict__.pop(made, None)
    floor = job.floor(BASE.dense_accuracy)
    target = None if floor is None else FloorTarget(floor=floor, dense_flops=DENSE_FLOPS, dense_accuracy=BASE.dense_accuracy)
    proposer.__dict__.update(training=job.training, seed=job.seed, sampler=job.sampler, floor=target)
    return proposer


def reports(recipe: Recipe) -> Iterator[EpochReport]:
    """Pruning at a quarter of the epochs, then finetuning; more accurate with more FLOPs, plus noise that depends on the recipe."""
    draw = random.Random(recipe.key)
    luck, epochs = draw.gauss(0, 0.05), recipe.training.epochs
    best = 0.5 + 0.4 * recipe.budget / DENSE_FLOPS + luck
    yield EpochReport(epoch=0.25 * epochs, phase=Phase.PRUNE, metrics={"accuracy": min(1, max(0, best / 2 + luck))}, seconds=1.0)
    for epoch in range(1, round(0.75 * epochs) + 1):
        at = 0.25 * epochs + epoch
        yield EpochReport(
            epoch=at, phase=Phase.FINETUNE, metrics={"accuracy": min(1, max(0, best * at / (at + 0.5)))}, seconds=at
        )


def outcome(recipe: Recipe, last: EpochReport) -> Outcome:
    """Of knobs other than the proposed ones, as the last step of a chain has them that was solved again."""
    flops, last_step = recipe.budget - 1, recipe.steps[-1]
    solved_again = last_step.replace(knobs={**last_step.knobs, "solved_again": True})
    return Outcome(
        recipe=recipe.replace(steps=(*recipe.steps[:-1], solved_again)),
        accuracy=last.metrics["accuracy"],
        accuracy_after_pruning=0.3,
        flops=flops,
        flops_predicted=flops,
        flops_mean=flops,
        flops_max=flops,
        params=1000,
        epochs=last.epoch,
        seconds=2.0 * last.epoch,
    )


def run_one(coordinator: Coordinator, assignment: TrialAssignment, step: Callable[[], None] = lambda: None) -> None:
    """`step` is called wherever a process could be killed."""
    last = None
    for last in reports(assignment.recipe):
        step()
        if not coordinator.report(assignment.number, last):
            return
    assert last is not None
    step()
    coordinator.complete(assignment.number, outcome(assignment.recipe, last))


def run_all(coordinator: Coordinator, step: Callable[[], None] = lambda: None) -> None:
    while (assignment := coordinator.next_trial()) is not None:
        step()
        run_one(coordinator, assignment, step)
