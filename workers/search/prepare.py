"""A search before it starts: the request is checked, the images are prepared and the dense model is built. Nothing is trained here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from autoslim.core.budget import Budget
from autoslim.core.constraints import budget_of_limits
from autoslim.core.job import ModelSpec, SearchJob, repeated_model
from autoslim.core.plan import Plan
from autoslim.core.result import BaseFacts, DataFacts
from autoslim.core.run_folder import RunFolder
from autoslim.core.shape import ViTShape
from autoslim.cost import LatencyTable, predict
from autoslim.data import PreparedDataset, prepare_dataset, prepare_probe
from autoslim.data.progress import Watch
from autoslim.errors import RequestError
from autoslim.export import require_runtimes
from autoslim.methods import Constraints, check_not_trivial
from autoslim.models import DenseModel, check_teacher, create_dense, untrained
from autoslim.search import FloorTarget, Proposer, first_share, load_prior, load_space, prior_shares
from autoslim.search.start import resolve_budget, starts_of
from autoslim.storage.mirror import NO_MIRROR, Mirror
from workers.search.compiled_ranks import check_compiled_ranks


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedSearch:
    """A checked job and what every step of its search reads. `budgets` and `dense_flops` are multiply-accumulates.

    `dense` is the first dense model, `starts` are all of them by their label, and `teacher` is one that is none of these. `probe` is the
    labelled set that features are judged on at the end. `mirror` is where the output lies if machines do not share the folder `output`.
    """

    job: SearchJob
    output: RunFolder
    dataset: PreparedDataset
    dense: DenseModel
    dense_flops: int
    budgets: dict[str, int]
    proposer: Proposer
    starts: dict[str, DenseModel]
    teacher: DenseModel | None = None
    probe: PreparedDataset | None = None
    mirror: Mirror = NO_MIRROR

    @property
    def others(self) -> list[DenseModel]:
        """The dense models beside the first: further starts, and a teacher that is none of them."""
        return [*list(self.starts.values())[1:], *([] if self.teacher is None else [self.teacher])]

    @property
    def data_lines(self) -> list[str]:
        """What is said of the images before the search."""
        starts = self.starts.values()
        return self.dataset.lines((dense.shape.image_size, dense.preprocessing.crop_pct) for dense in starts)

    def adapts(self, dense: DenseModel) -> bool:
        """Whether the model is trained on the data first, or may be."""
        return dense.adapts_to(self.dataset.classes, self.job.adapt)

    def shares_of_others(self, dense_accuracy: float | None = None) -> dict[str, float]:
        """By the name of another model, the least share of its FLOPs at which it lost no more than the goal allows. It takes the dense
        model's accuracy where the goal does not say how much of it may be lost."""
        goal, proposer = self.job.goal, self.proposer
        lost = None if goal is None else goal.drop_from(dense_accuracy)
        # How far features agree is no share of images, and the tables have accuracies.
        if lost is None or proposer.prior is None or not self.job.dataset.labelled:
            return {}
        return prior_shares(proposer.prior, lost, list(proposer.space.methods))

    def first_share(self, dense_accuracy: float | None = None) -> float:
        """The share of the dense model's FLOPs at which trials for the goal begin."""
        return first_share(self.shares_of_others(dense_accuracy).values())

    @property
    def goal_lines(self) -> list[str]:
        """What is known before training of an accuracy that is held on to; nothing without one."""
        job, goal = self.job, self.job.goal
        if goal is None:
            return []
        score = job.dataset.score
        lines = [
            f"{goal.label}: the cheapest model of an {score.name} {goal.words(score)} on the validation images. What it costs is what the "
            "search looks for: unlike a budget it cannot be proven beforehand, and perhaps no trial keeps to it"
        ]
        if job.dataset.labelled:
            when = "adapted" if self.adapts(self.dense) else "evaluated"
            lines.append(f"the dense model's accuracy is known when it has been {when}, before the first trial")
        shares = self.shares_of_others()
        lines += [f"another model lost no more with {share:.0%} of its FLOPs: {name}" for name, share in shares.items()]
        begins = "" if shares else ", because no other model says more"
        return [*lines, f"trials begin at {self.first_share():.0%} of the dense model's FLOPs{begins}"]

    @property
    def expected_budgets(self) -> list[int]:
        """The multiply-accumulates of the budgets, and of the models that are likely to be tried for the goal."""
        goal = [] if self.job.goal is None else [int(self.first_share() * self.dense_flops)]
        return [*self.budgets.values(), *goal]

    @property
    def mean_budget_share(self) -> float:
        """The mean over `expected_budgets` of budget / FLOPs of the dense model."""
        return sum(self.expected_budgets) / len(self.expected_budgets) / self.dense_flops


def prepare(
    job: SearchJob, cache: Path, *, tell: Callable[[str], None] | None = None, watch: Watch | None = None
) -> PreparedSearch:
    """Checks everything that can be checked without training; prepared images go to the folder `cache`. `tell` and `watch` as of
    `prepare_dataset`.

    Raises:
        RequestError: BudgetError, UnsupportedModelError, DatasetError, SpaceError or WeightsError, with the allowed values.
        MissingExtraError: where the runtime of a form is not installed.
    """
    if not job.labels:
        raise RequestError("a search needs at least one FLOPs budget, or an accuracy to hold on to (--max-drop, --min-accuracy)")
    _check_models(job)
    require_runtimes(job.forms)
    space = load_space(job.space) if job.dataset.labelled else load_space(job.space).for_features()
    # An unsupported model is refused before the images are decoded, which may take minutes, and before weights are downloaded.
    models = [untrained(spec, labelled=job.dataset.labelled) for spec in _all_models(job)]
    check_compiled_ranks(job, dict(zip((spec.name for spec in job.models), models, strict=False)), space)
    inputs = [(model.shape.image_size, model.preprocessing.crop_pct) for model in models[: len(job.starts)]]
    dataset = prepare_dataset(job.dataset, cache, seed=job.seed, inputs=inputs, tell=tell, watch=watch)
    probe = prepare_probe(job.probe, job.dataset, cache, seed=job.seed, tell=tell)
    starts = {label: create_dense(spec, classes=len(dataset.classes)) for label, spec in job.starts.items()}
    teacher = _own_teacher(job, starts, classes=len(dataset.classes))
    for spec, model in zip(_all_models(job), [*starts.values(), teacher], strict=False):
        if model is not None:
            model.check_adapt(spec.name, job.adapt)
    dense, shapes = next(iter(starts.values())), {label: start.shape for label, start in starts.items()}
    dense_flops = flops_of(dense)
    budgets = _resolve_budgets(job, shapes, dense_flops)
    proposer = Proposer(
        space=space,
        shape=dense.shape,
        starts=starts_of(shapes),
        budgets=budgets,
        training=job.training,
        seed=job.seed,
        sampler=job.sampler,
        class_query=job.class_query,
        bound=job.bound,
        limits=job.limits,
        prior=load_prior(job.prior),
    )
    return PreparedSearch(
        job=job,
        output=RunFolder(Path(job.output)),
        dataset=dataset,
        dense=dense,
        dense_flops=dense_flops,
        budgets=budgets,
        proposer=proposer,
        starts=starts,
        teacher=teacher,
        probe=probe,
        mirror=Mirror.of(job.output_uri or ""),
    )


def other_images(before: BaseFacts | None, now: DataFacts) -> str:
    """What is said where a search is resumed on other images than its trials were trained on; else empty."""
    known = None if before is None else before.data
    if known is None or known.content_digest == now.content_digest:
        return ""
    return (
        f"look at this: the images are not those of the earlier attempts ({known.describe()}; now {now.describe()}): a dense model that is "
        "adapted to them is adapted again, and earlier trials were trained and judged on the others"
    )


def flops_of(dense: DenseModel) -> int:
    """Multiply-accumulates for an image."""
    return predict(dense.shape, Plan.dense(dense.shape)).total


def _check_models(job: SearchJob) -> None:
    repeated = repeated_model(job.models)
    if repeated is not None:
        raise RequestError(
            f"--model {job.models[repeated].name} is given twice with the same weights; allowed: the same model with other weights"
        )


def _all_models(job: SearchJob) -> list[ModelSpec]:
    """The starts, and a teacher that is none of them."""
    return [*job.models, *([] if job.teacher is None or job.teacher in job.models else [job.teacher])]


def _own_teacher(job: SearchJob, starts: Mapping[str, DenseModel], *, classes: int) -> DenseModel | None:
    """The teacher that the job names, where it is none of the starts.

    Raises:
        RequestError: the teacher is for images of another size than a start.
    """
    if job.teacher is None:
        return None
    place = list(job.models).index(job.teacher) if job.teacher in job.models else None
    teacher = create_dense(job.teacher, classes=classes) if place is None else list(starts.values())[place]
    check_teacher(job.teacher.name, teacher.shape, {label: start.shape for label, start in starts.items()})
    return teacher if place is None else None


def _resolve_budgets(job: SearchJob, shapes: Mapping[str, ViTShape], dense_flops: int) -> dict[str, int]:
    """Multiply-accumulates by the budget's label."""
    budgets = {budget.label: resolve_budget(budget, dense_flops, starts_of(shapes)) for budget in job.budgets}
    for budget in _checked_budgets(job):
        check_not_trivial(budget, Constraints(limits=job.limits), next(iter(shapes.values())))
    if len(budgets) < len(job.budgets):
        raise RequestError(f"each budget can be given once, not twice: {', '.join(budget.label for budget in job.budgets)}")
    return budgets


def with_latency_table(prepared: PreparedSearch, table: LatencyTable) -> PreparedSearch:
    """The same search with a proposer that predicts latencies from `table`.

    Raises:
        BudgetError: no plan keeps to the latency, or the dense model keeps to it already.
    """
    for budget in _checked_budgets(prepared.job):
        check_not_trivial(budget, Constraints(limits=prepared.job.limits, timer=table), prepared.dense.shape)
    return dataclasses.replace(prepared, proposer=dataclasses.replace(prepared.proposer, timer=table))


def _checked_budgets(job: SearchJob) -> tuple[Budget, ...]:
    """The budgets that must not be met by the dense model; limits beside a goal are one."""
    return job.budgets or ((budget_of_limits(job.limits),) if job.limits.given else ())


def with_floor(prepared: PreparedSearch, facts: BaseFacts) -> PreparedSearch:
    """The same search with a proposer that looks for the goal's model, too, once the dense model is evaluated."""
    floor = prepared.job.floor(facts.dense_accuracy)
    if floor is None:
        return prepared
    target = FloorTarget(
        floor=floor,
        dense_flops=facts.dense_flops,
        dense_accuracy=facts.dense_accuracy,
        first=prepared.first_share(facts.dense_accuracy),
    )
    return dataclasses.replace(prepared, proposer=dataclasses.replace(prepared.proposer, floor=target))
