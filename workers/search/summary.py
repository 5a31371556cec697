"""`Summary`: how a search ended. The command line prints it, and the service's driver writes it down."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from autoslim.core.duration import format_duration
from autoslim.core.job import SearchJob
from autoslim.core.record import OPTIONAL, Record
from autoslim.core.result import BaseFacts, Origin, SharedCost, TrialResult, TrialState
from autoslim.core.score import ACCURACY
from autoslim.core.selection import NO_TRIAL
from autoslim.core.speed import SpeedReport
from autoslim.errors import BudgetError
from autoslim.export.artifact import load_config
from autoslim.report.dense_models import describe_teachers
from autoslim.report.speed_table import selected_speeds
from autoslim.search import AgainstControl, Explanation, WithinNoise, against_control, cheapest_within_noise, why_missed
from workers.progress.cost import SearchCost
from workers.search.finalize import SelectedModel
from workers.search.prepare import PreparedSearch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary(Record):
    """The models and how they compare. Dictionaries have a budget's label as key.

    `states` counts the search's own trials by state, `reasons` say why each model was selected, `missing` are the budgets, or the goal,
    without a model, and `why_missing` says so in a sentence each; `goal` is its label; `score` is what all fields called accuracy are,
    `shared` is work done once for several trials. `logged` is false where MLflow lacks a part. `spending` says what is spent of the
    job's limits. `cost` is that of all attempts, but for its `seconds`, which are this attempt's. `images` is the size of the splits
    `validation` and `test`, `within_noise` the cheapest model whose accuracy cannot be told from the best one's, and `speeds` what was
    measured of the models. `marked_forms` are exported files that lose more than they may, each with what it loses. Of a search with
    several dense models `starts` has each by its label, and `teachers` says which of them teaches the trials of which.
    """

    job: str
    output: str
    output_uri: str | None = dataclasses.field(default=None, metadata=OPTIONAL)
    score: str = dataclasses.field(default=ACCURACY.name, metadata=OPTIONAL)
    dense_flops: int
    dense_accuracy: float
    models: tuple[SelectedModel, ...]
    controls: dict[str, AgainstControl]
    reasons: dict[str, Explanation]
    missing: tuple[str, ...]
    shared: tuple[SharedCost, ...]
    states: dict[str, int]
    tracking_uri: str
    logged: bool
    cost: SearchCost
    images: dict[str, int] = dataclasses.field(default_factory=dict, metadata=OPTIONAL)
    within_noise: WithinNoise | None = dataclasses.field(default=None, metadata=OPTIONAL)
    speeds: dict[str, SpeedReport] = dataclasses.field(default_factory=dict, metadata=OPTIONAL)
    marked_forms: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict, metadata=OPTIONAL)
    goal: str = dataclasses.field(default="", metadata=OPTIONAL)
    spending: str = dataclasses.field(default="", metadata=OPTIONAL)
    why_missing: dict[str, str] = dataclasses.field(default_factory=dict, metadata=OPTIONAL)
    starts: dict[str, BaseFacts] = dataclasses.field(default_factory=dict, metadata=OPTIONAL)
    teachers: tuple[str, ...] = dataclasses.field(default=(), metadata=OPTIONAL)

    def missed(self, label: str) -> str:
        """Why the budget, or the goal, has no model."""
        return self.why_missing.get(label, NO_TRIAL)


def summarize(
    prepared: PreparedSearch,
    results: Sequence[TrialResult],
    models: Sequence[SelectedModel],
    *,
    facts: BaseFacts,
    reasons: Mapping[str, Explanation],
    shared: tuple[SharedCost, ...],
    cost: SearchCost,
    hours: float,
    ended: str,
) -> Summary:
    """`hours` is the wall time of all attempts, `ended` why no further trial began. `tracking_uri` and `logged` are not known before the
    last sync to MLflow."""
    job = prepared.job
    selected = {model.label: results[model.trial] for model in models}
    images = prepared.dataset.report.validation.images if job.dataset.score.is_share else None
    controls = {label: against_control(results, prepared.budgets, label, job.limits, images=images) for label in prepared.budgets}
    missing = tuple(label for label in job.labels if label not in selected)
    own = [result.state for result in results if result.origin != Origin.REUSED]
    return Summary(
        job=job.id,
        output=str(prepared.output.root),
        output_uri=job.output_uri,
        score=job.dataset.score.name,
        dense_flops=facts.dense_flops,
        dense_accuracy=facts.dense_accuracy,
        models=tuple(models),
        controls={label: control for label, control in controls.items() if control is not None},
        reasons=dict(reasons),
        missing=missing,
        goal="" if job.goal is None else job.goal.label,
        why_missing={label: _why_missing(prepared, label, results, facts) for label in missing},
        shared=shared,
        states={state.value: own.count(state) for state in TrialState},
        tracking_uri="",
        logged=False,
        cost=cost,
        images={split: getattr(prepared.dataset.report, split).images for split in ("validation", "test")},
        within_noise=_within_noise(prepared, results),
        speeds=selected_speeds(str(prepared.output.root), [model.label for model in models]),
        marked_forms={model.label: marked for model in models if (marked := load_config(model.folder).marked_forms)},
        spending=_spending(job, hours, cost, ended),
        starts=facts.starts,
        teachers=tuple(describe_teachers(facts)),
    )


def _within_noise(prepared: PreparedSearch, results: Sequence[TrialResult]) -> WithinNoise | None:
    """Nothing where features are compared: their agreement is no share of the images."""
    job = prepared.job
    if not job.dataset.labelled:
        return None
    images = prepared.dataset.report.validation.images
    return cheapest_within_noise(results, prepared.budgets, job.limits, images=images)


def _spending(job: SearchJob, hours: float, cost: SearchCost, ended: str) -> str:
    """`1h54m of 2h00m (6m00s left), 18.20 of 20 in money (1.80 left); the search ended: ...`; empty where neither is limited."""
    parts, money = [], cost.money or 0.0
    if job.max_hours is not None:
        most, left = 3600 * job.max_hours, 3600 * max(0.0, job.max_hours - hours)
        parts.append(f"{format_duration(3600 * hours)} of {format_duration(most)} ({format_duration(left)} left)")
    if job.max_cost is not None:
        parts.append(f"{money:.2f} of {job.max_cost:g} in money ({max(0.0, job.max_cost - money):.2f} left)")
    return ", ".join(parts) + (f"; the search ended: {ended}" if parts and ended else "")


def _why_missing(prepared: PreparedSearch, label: str, results: Sequence[TrialResult], facts: BaseFacts) -> str:
    job = prepared.job
    if job.goal is None or label != job.goal.label:
        return NO_TRIAL
    return why_missed(results, job.goal, facts, job.limits, score=job.dataset.score)


def exit_code(summary: Summary) -> int:
    """0, or 3 where a budget or the goal has no model."""
    return BudgetError.exit_code if summary.missing else 0
