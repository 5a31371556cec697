"""A search before it starts: the request is checked, the images are prepared and the dense model is built. Nothing is trained here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from autoslim.core.job import ModelSpec, SearchJob, repeated_model
from autoslim.core.plan import Plan
from autoslim.core.run_folder import RunFolder
from autoslim.core.shape import ViTShape
from autoslim.cost import LatencyTable, predict
from autoslim.data import PreparedDataset, prepare_dataset, prepare_probe
from autoslim.data.progress import Watch
from autoslim.errors import RequestError
from autoslim.methods import Constraints, check_not_trivial
from autoslim.models import DenseModel, check_teacher, create_dense, untrained
from autoslim.search import Proposer, load_prior, load_space
from autoslim.search.start import resolve_budget, starts_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedSearch:
    """A checked job and what every step of its search reads. `budgets` and `dense_flops` are multiply-accumulates.

    `dense` is the first dense model, `starts` are all of them by their label, and `teacher` is one that is none of these. `probe` is the
    labelled set that features are judged on at the end.
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

    @property
    def others(self) -> list[DenseModel]:
        """The dense models beside the first: further starts, and a teacher that is none of them."""
        return [*list(self.starts.values())[1:], *([] if self.teacher is None else [self.teacher])]

    def adapts(self, dense: DenseModel) -> bool:
        """Whether the model is trained on the data first, or may be."""
        return dense.adapts_to(self.dataset.classes, self.job.adapt)

    @property
    def mean_budget_share(self) -> float:
        """The mean over all budgets of budget / FLOPs of the dense model."""
        return sum(self.budgets.values()) / len(self.budgets) / self.dense_flops


def prepare(
    job: SearchJob, cache: Path, *, tell: Callable[[str], None] | None = None, watch: Watch | None = None
) -> PreparedSearch:
    """Checks everything that can be checked without training; prepared images go to the folder `cache`. `tell` and `watch` as of
    `prepare_dataset`.

    Raises:
        RequestError: BudgetError, UnsupportedModelError, DatasetError, SpaceError or WeightsError, with the allowed values.
    """
    if not job.budgets:
        raise RequestError("a search needs at least one FLOPs budget")
    _check_models(job)
    space = load_space(job.space) if job.dataset.labelled else load_space(job.space).for_features()
    # An unsupported model is refused before the images are decoded, which may take minutes, and before weights are downloaded.
    for spec in _all_models(job):
        untrained(spec, labelled=job.dataset.labelled)
    dataset = prepare_dataset(job.dataset, cache, seed=job.seed, tell=tell, watch=watch)
    probe = prepare_probe(job.probe, job.dataset, cache, seed=job.seed)
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
    for budget in job.budgets:
        check_not_trivial(budget, Constraints(limits=job.limits), next(iter(shapes.values())))
    if len(budgets) < len(job.budgets):
        raise RequestError(f"each budget can be given once, not twice: {', '.join(budget.label for budget in job.budgets)}")
    return budgets


def with_latency_table(prepared: PreparedSearch, table: LatencyTable) -> PreparedSearch:
    """The same search with a proposer that predicts latencies from `table`.

    Raises:
        BudgetError: no plan keeps to the latency, or the dense model keeps to it already.
    """
    for budget in prepared.job.budgets:
        check_not_trivial(budget, Constraints(limits=prepared.job.limits, timer=table), prepared.dense.shape)
    return dataclasses.replace(prepared, proposer=dataclasses.replace(prepared.proposer, timer=table))
