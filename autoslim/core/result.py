"""The result of a trial, and the Pareto front of several."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self, TypeVar, get_args, get_type_hints

from autoslim.core.constraints import CostLimits
from autoslim.core.recipe import Recipe
from autoslim.core.record import OPTIONAL, Record

T = TypeVar("T")


class TrialState(enum.StrEnum):
    """RUNNING ends in exactly one of the others; only COMPLETE has a model."""

    RUNNING = "running"
    COMPLETE = "complete"
    STOPPED = "stopped"
    FAILED = "failed"
    INFEASIBLE = "infeasible"


class Origin(enum.StrEnum):
    """Who proposed a trial's recipe.

    SAMPLER: the sampler. CONTROL: drawn at random, to compare the search with. REFINEMENT: a good recipe again, for more epochs.
    REUSED: nobody, the trial comes from an earlier search.
    """

    SAMPLER = "sampler"
    CONTROL = "control"
    REFINEMENT = "refinement"
    REUSED = "reused"


class Target(enum.StrEnum):
    """The target of a trial is the label of the budget that its recipe is solved onto, or FREE where no budget was aimed at."""

    FREE = "free"


class Phase(enum.StrEnum):
    """What a model goes through when an epoch is reported.

    ADAPT: fine-tuning of the dense model before the search. SHARED: work that several trials share. TRAIN: the method's own training.
    PRUNE: straight after pruning. FINETUNE: fine-tuning of the pruned model.
    """

    ADAPT = "adapt"
    SHARED = "shared"
    TRAIN = "train"
    PRUNE = "prune"
    FINETUNE = "finetune"


class ErrorClass(enum.StrEnum):
    """The names of those exceptions that a search treats specially. `TrialResult.error_class` may name any other exception, too."""

    DIVERGED = "DivergedError"
    INFEASIBLE = "InfeasibleError"
    # The worker of the trial was lost more often than a trial is retried.
    WORKER_LOST = "WorkerLostError"
    # The same for want of memory: torch's for a device's, and Ray's, which ends a worker before its node has none left.
    OUT_OF_MEMORY = "OutOfMemoryError"


FORMER_FIELDS = {"beat": "phase", "accuracy_after_cut": "accuracy_after_pruning", "validation_accuracy": "accuracy"}
"""Names of fields before version 0.2: what was stored under the former name is read under the new one."""
FORMER_ORIGINS = {"random": Origin.CONTROL, "final": Origin.REFINEMENT}
FORMER_PHASES = {"cut": Phase.PRUNE, "tune": Phase.FINETUNE}


def with_current_names(data: Any) -> Any:
    """`data`, the fields of a stored report, outcome or result, with former names and values replaced."""
    if not isinstance(data, dict):
        return data
    fields = {FORMER_FIELDS.get(name, name): value for name, value in data.items()}
    for name, former in (("origin", FORMER_ORIGINS), ("phase", FORMER_PHASES)):
        if name in fields:
            fields[name] = former.get(fields[name], fields[name])
    return fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochReport(Record):
    """A point on a trial's curves. `epoch` counts all passes over the training images so far.

    `seconds` is wall time in the worker up to here, earlier runs of the trial included; None where it is not measured. `system` is what
    the worker's machine was busy with since the last report, by MLflow's names of system metrics without their prefix.
    """

    epoch: float
    phase: Phase
    metrics: dict[str, float]
    seconds: float | None = None
    system: dict[str, float] = dataclasses.field(default_factory=dict, metadata=OPTIONAL)

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        return super().from_dict(with_current_names(data))


def _fact(description: str, **metadata: Any) -> Any:
    return dataclasses.field(default=None, metadata={"description": description, **metadata})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurements(Record):
    """What is measured of a trial and its model; None where it was not measured. A complete trial has all but the latencies.

    Every record, table and reply with a trial's result has these fields by inheritance or makes them from here: a fact that is added
    to this class is in the store, the HTTP API, the client, `trials.parquet`, `summary.json` and MLflow.
    """

    accuracy: float | None = _fact("top-1 share on the validation images, of the model that is kept")
    accuracy_after_pruning: float | None = _fact("top-1 share on the validation images, straight after pruning")
    flops: int | None = _fact(
        "multiply-accumulates of an image, measured: the most that an image can take, or the mean where the budget is for the mean"
    )
    flops_predicted: int | None = _fact("multiply-accumulates of an image, from the plan's closed form")
    flops_mean: int | None = _fact("multiply-accumulates of a validation image, on average")
    flops_max: int | None = _fact("multiply-accumulates of a validation image, at most")
    params: int | None = _fact("parameters of the model")
    latency_ms: float | None = _fact("milliseconds of a batch, predicted, where the latency is limited")
    latency_measured_ms: float | None = _fact("milliseconds of a batch, measured, where the model was a candidate for a budget")
    seconds: float | None = _fact("wall time in the worker, earlier runs of the trial included")
    epochs: float | None = _fact("passes over the training images")
    kept_epoch: float | None = _fact(
        "those of the passes after which the model is kept: straight after pruning or after an epoch of fine-tuning, the best on the "
        "validation images"
    )
    precision: str | None = _fact(
        "what its training computed in: float32, tf32, bfloat16, or float16 with a scaled loss", **OPTIONAL
    )
    grad_accum_steps: int | None = _fact(
        "parts that a training batch was computed in; more than asked for where the memory was too small", **OPTIONAL
    )

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        return super().from_dict(with_current_names(data))

    def measurements(self) -> dict[str, Any]:
        """The values of these fields by name, of any record that has them."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(Measurements)}


def measurement_fields() -> dict[str, tuple[type[int | float | str], str]]:
    """Type and description of every measurement by name, for tables and schemas; each value may also be None."""
    types = get_type_hints(Measurements)
    return {
        field.name: (get_args(types[field.name])[0], field.metadata["description"]) for field in dataclasses.fields(Measurements)
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome(Measurements):
    """What a worker reports of a trial that it has trained to its end.

    `recipe` has the knobs that the model was pruned with. In a chain they may differ from the proposed ones, and its key with them:
    a later step is solved again once the earlier ones have decided what they keep.
    """

    recipe: Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialResult(Measurements):
    """One row of the front.

    `artifact` is the model's folder, relative to the job's output folder. `reused_from` names the trial of an earlier search whose
    result this is, where `origin` is REUSED.

    A STOPPED trial has the accuracy that it had reached after `epochs`, its plan's FLOPs, and in `stopped` why the pruner ended it.
    """

    number: int
    recipe: Recipe
    origin: Origin
    state: TrialState
    artifact: str | None = None
    duplicate_of: int | None = None
    reused_from: str | None = None
    stopped: str | None = None
    error_class: str | None = None
    error: str | None = None

    def keeps_to(self, limits: CostLimits) -> bool:
        """By its parameters and its latency, the measured one where it was measured; a trial that is not complete keeps to nothing."""
        if self.state is not TrialState.COMPLETE:
            return False
        latency = self.latency_ms if self.latency_measured_ms is None else self.latency_measured_ms
        within_params = limits.params is None or (self.params is not None and self.params <= limits.params)
        return within_params and (limits.latency_ms is None or (latency is not None and latency <= limits.latency_ms))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParetoFront(Record):
    """Complete trials that no other dominates, cheapest first."""

    results: tuple[TrialResult, ...]

    @classmethod
    def of(cls, results: Iterable[TrialResult], *, cost: str = "flops") -> ParetoFront:
        """Of equal points the earliest trial stays. `cost` is `flops`, or `latency_ms` among the trials that have one."""
        done = [r for r in results if r.state is TrialState.COMPLETE and r.duplicate_of is None]
        if cost == "latency_ms":
            done = [r for r in done if r.latency_ms is not None]
        done.sort(key=lambda r: r.number)
        return cls(results=non_dominated(done, lambda r: (getattr(r, cost) or 0, r.accuracy or 0.0)))

    def hypervolume(self, *, dense_flops: int, chance: float) -> float:
        """Area above `chance` accuracy and left of the dense model's FLOPs that the front covers, as a share of the whole."""
        return hypervolume([(r.flops or 0, r.accuracy or 0.0) for r in self.results], dense_flops=dense_flops, chance=chance)


def non_dominated(items: Iterable[T], point: Callable[[T], tuple[float, float]]) -> tuple[T, ...]:
    """The Pareto front of `items`, cheapest first; `point` returns the cost and the accuracy of one. Of equal points the first stays."""
    front: list[T] = []
    highest = -math.inf
    # From the cheapest up, an item is on the front where it is more accurate than all before it.
    for item in sorted(items, key=lambda item: (point(item)[0], -point(item)[1])):
        if point(item)[1] > highest:
            front.append(item)
            highest = point(item)[1]
    return tuple(front)


def hypervolume(front: Sequence[tuple[int, float]], *, dense_flops: int, chance: float) -> float:
    """`front` holds (flops, accuracy), cheapest first and with rising accuracy."""
    if not front:
        return 0.0
    area = 0.0
    ends = [min(flops, dense_flops) for flops, _ in front[1:]] + [dense_flops]
    for (flops, accuracy), end in zip(front, ends, strict=True):
        area += max(0, end - flops) * max(0.0, accuracy - chance)
    return area / (dense_flops * (1.0 - chance))


ADAPTING, HANDING_OVER = "dense model", "handing over"
"""`SharedCost.method` of what a search does before its first trial and after its last one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedCost(Record):
    """The cost of work that no trial does alone, which belongs to the job: a method's that several trials share, `ADAPTING` a dense
    model, or `HANDING_OVER` the models. `epochs` are passes over the training images.
    """

    key: str
    method: str
    settings: dict[str, Any]
    epochs: float
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataFacts(Record):
    """The prepared data set: the digest of its images and labels, its images by split, and the number of its classes."""

    content_digest: str
    images: dict[str, int]
    classes: int

    def describe(self) -> str:
        """`900 train, 100 validation, 200 test`."""
        return ", ".join(f"{count} {split}" for split, count in self.images.items())


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseFacts(Record):
    """The dense model that every trial starts from; `chance` is the accuracy of the best constant guess, `latency_ms` the milliseconds
    of a batch, where the latency is limited. `head_check` says how a classifier of unknown classes was judged.

    Of a search with several dense models these are the first one's, which shares of FLOPs refer to; `starts` has those of each by its
    label. `teacher` is the label or the name of the model whose soft labels the trials learn from, by the start's label; without an entry
    a start is its own teacher. `data` is what all of them were trained on.
    """

    dense_flops: int
    dense_accuracy: float
    params: int
    chance: float
    latency_ms: float | None = None
    head_check: str = dataclasses.field(default="", metadata=OPTIONAL)
    starts: dict[str, BaseFacts] = dataclasses.field(default_factory=dict, metadata=OPTIONAL)
    teacher: dict[str, str] = dataclasses.field(default_factory=dict, metadata=OPTIONAL)
    data: DataFacts | None = dataclasses.field(default=None, metadata=OPTIONAL)

    @property
    def validation_images(self) -> int | None:
        """How many images accuracies are measured on; None where an earlier version has not stored it."""
        return None if self.data is None else self.data.images.get("validation")

    @property
    def front_flops(self) -> int:
        """Where the area under the front ends: the multiply-accumulates of the costliest dense model."""
        return max(self.dense_flops, *(facts.dense_flops for facts in self.starts.values()), 0)
