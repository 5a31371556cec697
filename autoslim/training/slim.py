"""One slimmed model without a search: the request, what is checked of it before anything is trained, and the training.

It runs in the caller's process and knows of no cluster.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from pathlib import Path

from autoslim.budget import Budget, format_flops
from autoslim.data import PreparedDataset, prepare_dataset
from autoslim.data.augment import check_augmentation
from autoslim.errors import BudgetError, InfeasibleError, RequestError, SpaceError
from autoslim.flops import predict
from autoslim.job import SPEED_MODES, DatasetSpec, ModelSpec
from autoslim.methods import METHODS, solve
from autoslim.plan import Plan
from autoslim.recipe import Recipe, Step, Training
from autoslim.record import Record
from autoslim.result import BaseFacts, EpochReport
from autoslim.shape import ViTShape
from autoslim.training.base import BaseRequest, prepare_base, weights_digest
from autoslim.training.bench import Bench
from autoslim.training.trial import Outcome, run_trial
from autoslim.vit import DenseModel, create_dense


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlimJob(Record):
    """`steps` are methods in their order, with the knobs that were asked for; all else is as in `SearchJob`.

    Knobs that decide FLOPs are where the solver starts. `first` is the budget of the first of several steps; None: every step takes
    the same factor of the FLOPs.
    """

    model: ModelSpec
    dataset: DatasetSpec
    budget: Budget
    steps: tuple[Step, ...]
    first: Budget | None = None
    training: Training
    base: Training
    seed: int = 0
    class_query: bool = False
    bound: str = "max"
    speed: tuple[str, ...] = SPEED_MODES


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedSlim:
    """A request that was found feasible; `recipe` holds its knobs as they were solved, `plan` what they aim at."""

    job: SlimJob
    dataset: PreparedDataset
    dense: DenseModel
    dense_flops: int
    recipe: Recipe
    plan: Plan

    @property
    def adapts(self) -> bool:
        """Whether the dense model is trained before it is slimmed."""
        return not self.dense.is_ready_for(self.dataset.classes)

    @property
    def base_request(self) -> BaseRequest:
        job = self.job
        return BaseRequest(
            model=job.model,
            weights_digest=weights_digest(job.model),
            dataset_digest=self.dataset.digest,
            training=job.base,
            seed=job.seed,
        )


def prepare_slim(job: SlimJob, cache: Path) -> PreparedSlim:
    """Checks everything that can be checked without training; what needs no data first.

    Raises:
        RequestError: BudgetError, UnsupportedModelError, DatasetError, SpaceError or WeightsError, saying what is allowed.
    """
    check_augmentation(job.training.augmentation)
    _check_steps(job, create_dense(job.model.replace(weights="scratch")).shape)
    dataset = prepare_dataset(job.dataset, cache, seed=job.seed)
    dense = create_dense(job.model, classes=len(dataset.classes))
    dense_flops = predict(dense.shape, Plan.dense(dense.shape)).total
    budget = job.budget.resolve(dense_flops)
    steps, plan = solve_steps(job, dense.shape, budget)
    recipe = Recipe(
        steps=steps, budget=budget, training=job.training, seed=job.seed, class_query=job.class_query, bound=job.bound
    )
    return PreparedSlim(job=job, dataset=dataset, dense=dense, dense_flops=dense_flops, recipe=recipe, plan=plan)


def _check_steps(job: SlimJob, shape: ViTShape) -> None:
    for step in job.steps:
        method = METHODS[step.method]
        method.check(shape)
        try:
            method.repair(shape, step.knobs)
        except SpaceError as error:
            raise SpaceError(f"--knob: {method.name}: {error}") from error


def solve_steps(job: SlimJob, shape: ViTShape, budget: int) -> tuple[tuple[Step, ...], Plan]:
    """Every step solved onto its own target, on the plan that those before it aim at.

    Raises:
        BudgetError: when a step cannot be solved onto its target; names the cheapest it can be.
    """
    plan, steps = Plan.dense(shape, class_query=job.class_query), []
    for step, target in zip(job.steps, targets(job, shape, budget), strict=True):
        try:
            solved = solve(METHODS[step.method], shape, plan, step.knobs, target)
        except InfeasibleError as error:
            raise BudgetError(f"--flops {job.budget.label}: {error}; other knobs may reach lower") from error
        steps.append(Step(method=step.method, knobs=solved.knobs))
        plan = solved.plan
    return tuple(steps), plan


def targets(job: SlimJob, shape: ViTShape, budget: int) -> list[int]:
    """What each step may leave, in multiply-accumulates; those that are not given are even in the logarithm."""
    given: list[int] = []
    dense = predict(shape, Plan.dense(shape)).total
    start = predict(shape, Plan.dense(shape, class_query=job.class_query)).total
    if job.first is not None:
        given = [job.first.resolve(dense)]
        if given[0] < budget:
            raise RequestError(
                f"--first is {job.first.label}, {format_flops(given[0])} multiply-accumulates; "
                f"allowed: at least the {format_flops(budget)} of --flops {job.budget.label}"
            )
        start = given[0]
    left = len(job.steps) - len(given)
    return given + [round(start * (budget / start) ** (number / left)) for number in range(1, left)] + [budget]


def adapt(prepared: PreparedSlim, folder: Path) -> Generator[EpochReport, None, BaseFacts]:
    """The dense model, trained where it has to be, into `folder`; at once where it lies there already."""
    return (yield from prepare_base(folder, prepared.base_request, prepared.dataset))


def train(prepared: PreparedSlim, base: Path, folder: Path) -> Generator[EpochReport, None, Outcome]:
    """The slimmed model into `folder`/model; goes on from the checkpoint there, and at once where it is finished already."""
    done = folder / "outcome.json"
    if done.is_file():
        return Outcome.from_json(done.read_text())
    bench = Bench.open(base=base, dataset=prepared.dataset.path)
    outcome = yield from run_trial(prepared.recipe, bench, folder, budget_label=prepared.job.budget.label)
    done.write_text(outcome.to_json(indent=1))
    return outcome
