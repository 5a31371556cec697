"""One slimmed model without a search: the request, what is checked of it before anything is trained, and the training.

It runs in the caller's process and knows of no cluster.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Generator
from pathlib import Path

import torch

from autoslim.core.budget import Budget, format_flops
from autoslim.core.constraints import CostLimits, request_flags
from autoslim.core.files import write_atomically
from autoslim.core.forms import DEFAULT_FORMS, MAX_FORM_DROP
from autoslim.core.job import SPEED_MODES, DatasetSpec, ModelSpec
from autoslim.core.made_from import MadeFrom
from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs, Recipe, Step, TrainingSettings
from autoslim.core.record import OPTIONAL, Record
from autoslim.core.result import BaseFacts, EpochReport, Outcome
from autoslim.core.shape import ViTShape
from autoslim.cost import LatencyTable, predict, predict_params
from autoslim.cost.constraint_check import Timer
from autoslim.data import PreparedDataset, prepare_dataset, prepare_probe
from autoslim.data.augment import check_augmentation
from autoslim.data.progress import Watch
from autoslim.errors import BudgetError, InfeasibleError, RequestError, SpaceError
from autoslim.export import require_runtimes
from autoslim.methods import METHODS, Constraints, Method, Solved, binding, check_method, check_not_trivial, narrowing, narrows
from autoslim.methods.chain import chain_constraints, solve_each
from autoslim.methods.solver import cheaper_knobs, with_default_layers
from autoslim.models import DenseModel, check_teacher, create_dense, untrained
from autoslim.training.base_model import BaseRequest, prepare_base, weights_digest
from autoslim.training.context import TrialContext
from autoslim.training.trial import run_trial


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlimJob(Record):
    """`steps` are methods in their order, with the knobs that were given; all else is as in `SearchJob`.

    Knobs that decide FLOPs are where the solver starts. `first` is the budget of the first of several steps; None: every step takes
    the same factor of the FLOPs.
    """

    model: ModelSpec
    teacher: ModelSpec | None = dataclasses.field(default=None, metadata=OPTIONAL)
    dataset: DatasetSpec
    probe: str | None = dataclasses.field(default=None, metadata=OPTIONAL)
    budget: Budget
    limits: CostLimits = dataclasses.field(default_factory=CostLimits)
    steps: tuple[Step, ...]
    first: Budget | None = None
    training: TrainingSettings
    base: TrainingSettings
    adapt: bool | None = dataclasses.field(default=None, metadata=OPTIONAL)
    seed: int = 0
    class_query: bool = False
    bound: str = "max"
    speed: tuple[str, ...] = SPEED_MODES
    forms: tuple[str, ...] = dataclasses.field(default=DEFAULT_FORMS, metadata=OPTIONAL)
    max_form_drop: float = dataclasses.field(default=MAX_FORM_DROP, metadata=OPTIONAL)

    @property
    def method(self) -> str:
        """As in `Recipe`."""
        return "+".join(step.method for step in self.steps)

    @property
    def request_flags(self) -> str:
        """The budget and the limits as flags."""
        return request_flags(self.budget, self.limits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solution:
    """The request's knobs as they were solved, and the plan that they aim at."""

    recipe: Recipe
    plan: Plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedSlim:
    """A request that was found feasible; `table` predicts the latency, where that is limited, `teacher` is another model than the
    dense one, and `probe` the labelled set that features are judged on."""

    job: SlimJob
    dataset: PreparedDataset
    dense: DenseModel
    dense_flops: int
    table: LatencyTable | None = None
    teacher: DenseModel | None = None
    probe: PreparedDataset | None = None
    solution: Solution | None = None

    @property
    def recipe(self) -> Recipe:
        assert self.solution is not None
        return self.solution.recipe

    @property
    def plan(self) -> Plan:
        assert self.solution is not None
        return self.solution.plan

    @property
    def constraints(self) -> Constraints:
        return Constraints(
            limits=self.job.limits, timer=None if self.table is None else functools.partial(self.table, recipe=self.job.method)
        )

    @property
    def filled(self) -> dict[str, str]:
        """How much of each limit the plan uses, as text."""
        return self.constraints.describe(self.dense.shape, self.plan)

    @property
    def binding(self) -> str:
        """The limit that the plan fills most: `flops`, `params` or `latency`."""
        return binding(self.dense.shape, self.plan, self.recipe.budget, self.constraints)

    @property
    def adapts(self) -> bool:
        """Whether the dense model is trained before it is slimmed."""
        return self.dense.adapts_to(self.dataset.classes, self.job.adapt)

    @property
    def made_from(self) -> MadeFrom:
        """For the finished model's configuration."""
        job = self.job
        return MadeFrom(
            recipe=self.recipe,
            budget_label=job.budget.label,
            model=job.model,
            teacher=None if self.teacher is None else job.teacher,
            dataset=job.dataset,
            probe=job.probe,
            base=job.base,
            adapt=job.adapt,
            seed=job.seed,
            threads=torch.get_num_threads(),
        )

    @property
    def base_request(self) -> BaseRequest:
        return self._request(self.job.model)

    @property
    def teacher_request(self) -> BaseRequest | None:
        """Of the teacher, where it is another model."""
        return None if self.teacher is None or self.job.teacher is None else self._request(self.job.teacher)

    def _request(self, model: ModelSpec) -> BaseRequest:
        job = self.job
        return BaseRequest(
            model=model,
            weights_digest=weights_digest(model),
            dataset_digest=self.dataset.digest,
            training=job.base,
            seed=job.seed,
            adapt=job.adapt,
        )


Measure = Callable[[SlimJob, DenseModel], LatencyTable]
"""Measures on this machine what the plans of the request's methods take."""


def prepare_slim(
    job: SlimJob,
    cache: Path,
    measure: Measure | None = None,
    *,
    tell: Callable[[str], None] | None = None,
    watch: Watch | None = None,
) -> PreparedSlim:
    """Checks everything that can be checked without training; what needs no data first. `measure` is needed to limit the latency; `tell`
    and `watch` as of `prepare_dataset`.

    Raises:
        RequestError: BudgetError, UnsupportedModelError, DatasetError, SpaceError or WeightsError, saying what is allowed.
        MissingExtraError: where the runtime of a form is not installed.
        JobError: where the latency could not be measured.
    """
    check_augmentation(job.training.augmentation)
    require_runtimes(job.forms)
    model = untrained(job.model, labelled=job.dataset.labelled)
    _check_steps(job, model.shape)
    inputs = [(model.shape.image_size, model.preprocessing.crop_pct)]
    dataset = prepare_dataset(job.dataset, cache, seed=job.seed, inputs=inputs, tell=tell, watch=watch)
    probe = prepare_probe(job.probe, job.dataset, cache, seed=job.seed, tell=tell)
    dense = create_dense(job.model, classes=len(dataset.classes))
    teacher = None
    if job.teacher is not None and job.teacher != job.model:
        teacher = create_dense(job.teacher, classes=len(dataset.classes))
        teacher.check_adapt(job.teacher.name, job.adapt)
        check_teacher(job.teacher.name, teacher.shape, {"": dense.shape})
    dense.check_adapt(job.model.name, job.adapt)
    dense_flops = predict(dense.shape, Plan.dense(dense.shape)).total
    job.budget.resolve(dense_flops)
    table = None
    if job.limits.latency_ms is not None:
        assert measure is not None
        table = measure(job, dense)
    return solved(
        PreparedSlim(job=job, dataset=dataset, dense=dense, dense_flops=dense_flops, table=table, teacher=teacher, probe=probe)
    )


def solved(prepared: PreparedSlim) -> PreparedSlim:
    """With the recipe that fits the request and the table."""
    job, shape = prepared.job, prepared.dense.shape
    budget = job.budget.resolve(prepared.dense_flops)
    check_not_trivial(job.budget, prepared.constraints, shape)
    steps, plan = solve_steps(job, shape, budget, prepared.constraints.timer)
    recipe = Recipe(
        steps=steps,
        budget=budget,
        training=job.training,
        seed=job.seed,
        class_query=job.class_query,
        bound=job.bound,
        limits=job.limits,
    )
    return dataclasses.replace(prepared, solution=Solution(recipe=recipe, plan=plan))


def _check_steps(job: SlimJob, shape: ViTShape) -> None:
    for step in job.steps:
        method = METHODS[step.method]
        check_method(method.name, shape)
        try:
            method.repair(shape, step.knobs)
        except SpaceError as error:
            raise SpaceError(f"--knob: {method.name}: {error}") from error


def solve_steps(job: SlimJob, shape: ViTShape, budget: int, timer: Timer | None = None) -> tuple[tuple[Step, ...], Plan]:
    """Every step solved onto its own budget, on the plan that those before it aim at; `timer` predicts the latency of a plan.

    Raises:
        BudgetError: when a step cannot be solved onto its budget; names the cheapest it can be.
    """
    start = Plan.dense(shape, class_query=job.class_query)
    constraints = _all_constraints(job, start, timer)
    solved: list[Solved] = []
    try:
        for found in solve_each(METHODS, shape, start, job.steps, step_budgets(job, shape, budget), constraints=constraints):
            solved.append(found)
    except InfeasibleError as error:
        position = len(solved)
        plan = solved[-1].plan if solved else start
        own = constraints[position]
        if position < len(job.steps) - 1:
            # Parameters are the last step's to meet.
            own = dataclasses.replace(own, limits=own.limits.replace(params=None))
        advice = _advice(METHODS[job.steps[position].method], shape, plan, job.steps[position].knobs, own)
        raise BudgetError(f"{job.request_flags}: {error}{advice}") from error
    steps = tuple(step.replace(knobs=found.knobs) for step, found in zip(job.steps, solved, strict=True))
    return steps, solved[-1].plan


def _all_constraints(job: SlimJob, start: Plan, timer: Timer | None) -> list[Constraints]:
    """What each step is held to beside its budget: all the parameters' limit, and of the latency an even factor, as of the FLOPs."""
    first = 1 if job.first is not None else 0
    left = len(job.steps) - first
    ends: list[float | None] = [*[None] * first, *(number / left for number in range(1, left + 1))]
    return chain_constraints(Constraints(limits=job.limits, timer=timer), start, ends)


def _advice(method: Method, shape: ViTShape, plan: Plan, knobs: Knobs, constraints: Constraints) -> str:
    if (
        constraints.limits.params is None
        or constraints.limits.params >= predict_params(shape, plan)
        or narrows(method, shape, plan)
    ):
        return _lower_with(method, shape, plan, knobs)
    return f"; {method.name} removes no parameters, which {' and '.join(narrowing(shape))} can do"


def _lower_with(method: Method, shape: ViTShape, plan: Plan, knobs: Knobs) -> str:
    # Blocks that are left to the defaults come forward by themselves: for a budget of 0 as far as they can.
    knobs = with_default_layers(method, shape, plan, knobs, 0, ranges=method.ranges, constraints=Constraints())
    cheaper, flops = cheaper_knobs(method, shape, plan, knobs)
    if not cheaper:
        return "; no other knobs reach lower"
    flags = " ".join(f"--knob {name}={value}" for name, value in cheaper.items())
    return f"; other knobs may reach lower: {format_flops(flops)} with {flags}"


def step_budgets(job: SlimJob, shape: ViTShape, budget: int) -> list[int]:
    """What each step may leave, in multiply-accumulates; those that are not given are even in the logarithm."""
    given: list[int] = []
    dense = predict(shape, Plan.dense(shape)).total
    start = predict(shape, Plan.dense(shape, class_query=job.class_query)).total
    if job.first is not None:
        given = [job.first.resolve(dense)]
        if given[0] < budget:
            raise RequestError(
                f"--first is {job.first.label}, {format_flops(given[0])} multiply-accumulates; "
                f"allowed: at least the {format_flops(budget)} of {job.request_flags}"
            )
        start = given[0]
    left = len(job.steps) - len(given)
    return given + [round(start * (budget / start) ** (number / left)) for number in range(1, left)] + [budget]


def adapt(prepared: PreparedSlim, folder: Path) -> Generator[EpochReport, None, BaseFacts]:
    """The dense model in `folder`, trained first where that is needed; at once where it is there already."""
    return (yield from prepare_base(folder, prepared.base_request, prepared.dataset))


def adapt_teacher(prepared: PreparedSlim, folder: Path) -> Generator[EpochReport, None, BaseFacts | None]:
    """The same for the teacher, where it is another model; None where it is not."""
    request = prepared.teacher_request
    return None if request is None else (yield from prepare_base(folder, request, prepared.dataset))


def train(prepared: PreparedSlim, base: Path, folder: Path, teacher: Path | None = None) -> Generator[EpochReport, None, Outcome]:
    """The slimmed model in `folder`/model; resumes from the checkpoint there, and returns at once where it is finished. `teacher` is the
    folder of another dense model that gives the soft labels."""
    done = folder / "outcome.json"
    if done.is_file():
        return Outcome.from_json(done.read_text())
    context = TrialContext.open(base=base, dataset=prepared.dataset.path, latency=prepared.table, teacher=teacher)
    outcome = yield from run_trial(prepared.recipe, context, folder, budget_label=prepared.job.budget.label)
    write_atomically(done, outcome.to_json(indent=1))
    return outcome
