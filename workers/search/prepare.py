"""A search before it starts: the request is checked, the images are prepared and the dense model is built. Nothing is trained here."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from autoslim.core.job import SearchJob
from autoslim.core.plan import Plan
from autoslim.core.run_folder import RunFolder
from autoslim.cost import LatencyTable, predict
from autoslim.data import PreparedDataset, prepare_dataset
from autoslim.errors import RequestError
from autoslim.methods import Constraints, check_not_trivial
from autoslim.models import DenseModel, create_dense
from autoslim.search import Proposer, load_prior, load_space


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedSearch:
    """A checked job and what every step of its search reads. `budgets` and `dense_flops` are multiply-accumulates."""

    job: SearchJob
    output: RunFolder
    dataset: PreparedDataset
    dense: DenseModel
    dense_flops: int
    budgets: dict[str, int]
    proposer: Proposer

    @property
    def mean_budget_share(self) -> float:
        """The mean over all budgets of budget / FLOPs of the dense model."""
        return sum(self.budgets.values()) / len(self.budgets) / self.dense_flops


def prepare(job: SearchJob, cache: Path) -> PreparedSearch:
    """Checks everything that can be checked without training; prepared images go to the folder `cache`.

    Raises:
        RequestError: BudgetError, UnsupportedModelError, DatasetError, SpaceError or WeightsError, with the allowed values.
    """
    if not job.budgets:
        raise RequestError("a search needs at least one FLOPs budget")
    space = load_space(job.space)
    # An unsupported model is refused before the images are decoded, which may take minutes, and before weights are downloaded.
    create_dense(job.model.replace(weights="scratch"))
    dataset = prepare_dataset(job.dataset, cache, seed=job.seed)
    dense = create_dense(job.model, classes=len(dataset.classes))
    dense_flops = predict(dense.shape, Plan.dense(dense.shape)).total
    budgets = _resolve_budgets(job, dense, dense_flops)
    proposer = Proposer(
        space=space,
        shape=dense.shape,
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
    )


def _resolve_budgets(job: SearchJob, dense: DenseModel, dense_flops: int) -> dict[str, int]:
    """Multiply-accumulates by the budget's label."""
    budgets = job.budget_flops(dense_flops)
    for budget in job.budgets:
        check_not_trivial(budget, Constraints(limits=job.limits), dense.shape)
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
