"""`SearchJob`: the resolved request of a search. Its JSON is `job.json` in the output folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, Literal, get_args

from autoslim.core.accuracy_goal import AccuracyGoal, Floor
from autoslim.core.budget import Budget
from autoslim.core.constraints import CostLimits
from autoslim.core.forms import DEFAULT_FORMS, MAX_FORM_DROP
from autoslim.core.recipe import TrainingSettings
from autoslim.core.record import OPTIONAL, Record
from autoslim.core.score import Score, score_of
from autoslim.core.unreadable import Allowed
from autoslim.errors import RequestError

PRETRAINED, SCRATCH = "pretrained", "scratch"
"""The weights of a model that are no file."""

WEIGHT_FILES = (".safetensors", ".pth", ".pt", ".bin")
"""Ends of the names of files with weights."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec(Record):
    """`name` is a timm model name, or a folder in timm's hub format: its path, or its URI in an object store.

    `weights` is `pretrained` (timm's hub, or the folder's own), `scratch`, or a safetensors or weights-only file, also at a URI.
    `args` are passed to `timm.create_model`; `image_size` of None keeps the model's own.
    """

    name: str
    weights: str = PRETRAINED
    args: dict[str, Any] = dataclasses.field(default_factory=dict)
    image_size: tuple[int, int] | None = None


def repeated_model(specs: Sequence[ModelSpec]) -> int | None:
    """The place of the first model that is given before with the same weights; None where there is none."""
    return next((place for place, spec in enumerate(specs) if spec in specs[:place]), None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSpec(Record):
    """`source` is a Parquet file, a folder, or the name of a built-in set.

    `validation_share` is split off train, stratified, where the source has no validation split. `unreadable_share` is how much of
    a split may be unreadable before the job fails, or `unreadable_images` how many images where it is given.
    Decoded images are shared between trials up to `decoded_limit` bytes a job, or as many as the node that prepares them has room for.
    Where it is not `labelled`, images alone are read: neither class folders nor a column of labels count.
    `image_column` and `label_column` are columns of a table, guessed where they are None; `config` is one of a source's configurations.
    `drop_duplicates` leaves images out of train that have a copy in another split, or with another label. `token_labels` is where labels
    of the training images' patches are: a folder (with a / in it), its URI, or a column of the table.
    """

    source: str
    validation_share: float = 0.1
    unreadable_share: float = 0.01
    decoded_limit: int | None = None
    train_limit: int | None = None
    labelled: bool = dataclasses.field(default=True, metadata=OPTIONAL)
    image_column: str | None = dataclasses.field(default=None, metadata=OPTIONAL)
    label_column: str | None = dataclasses.field(default=None, metadata=OPTIONAL)
    config: str | None = dataclasses.field(default=None, metadata=OPTIONAL)
    drop_duplicates: bool = dataclasses.field(default=False, metadata=OPTIONAL)
    unreadable_images: int | None = dataclasses.field(default=None, metadata=OPTIONAL)
    token_labels: str | None = dataclasses.field(default=None, metadata=OPTIONAL)

    @property
    def unreadable(self) -> Allowed:
        """How much of a split may be unreadable."""
        return self.unreadable_share if self.unreadable_images is None else self.unreadable_images

    @property
    def score(self) -> Score:
        """What models are compared by: without labels, the dense model's features are what there is to agree with."""
        return score_of(labelled=self.labelled)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resources(Record):
    """CPUs and GPUs of one trial; a fraction shares a device."""

    cpu: float = 1.0
    gpu: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Resources:
        """Reads `gpu=1,cpu=4`.

        Raises:
            RequestError: for another resource or amount; the message follows the name of the setting.
        """
        amounts: dict[str, float] = {}
        for item in filter(None, (part.strip() for part in text.split(","))):
            key, _, value = item.partition("=")
            if key not in ("cpu", "gpu"):
                raise RequestError(f"has {key!r}; allowed: cpu, gpu")
            try:
                amounts[key] = float(value)
            except ValueError:
                amounts[key] = -1.0
            if not 0 <= amounts[key] < float("inf") or (amounts[key] > 1 and amounts[key] % 1):
                raise RequestError(f"has {item!r}; allowed for {key}: a fraction up to 1, or a whole number")
        return cls(**amounts)

    def __str__(self) -> str:
        """As `parse` reads it."""
        return f"cpu={self.cpu:.12g},gpu={self.gpu:.12g}"


SamplerName = Literal["forest", "tpe", "nsga2", "nsga3", "gp", "random"]
SAMPLER_NAMES: tuple[SamplerName, ...] = get_args(SamplerName)
"""Samplers, which propose recipes."""

PriorName = Literal["auto", "none"]
"""What a search knows before its first trial: trials of other models that are part of autoslim, or nothing."""

PrunerName = Literal["halving", "median", "none"]
PRUNER_NAMES: tuple[PrunerName, ...] = get_args(PrunerName)
"""Pruners, which stop unpromising trials early; `none` stops no trial."""

SpeedMode = Literal["eager", "compiled", "onnxruntime"]
SPEED_MODES: tuple[SpeedMode, ...] = get_args(SpeedMode)
"""How a model can be run when its speed is measured."""


STALL_MINUTES = 60.0
"""Longer than any work is silent that does not hang. Compiling a large model takes tens of minutes, and so do listing a set of millions of
images, a file of many gigabytes on its way to a slow store, and a step of the largest model on a CPU. A hang costs this time once."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchJob(Record):
    """A search with every default filled in; what its settings mean is written at their fields in `config.JobSpec` and `config.Placement`.

    `model` and `more_models` are the dense models that recipes start from; shares of FLOPs refer to `model`. `teacher` gives the soft
    labels; None: the most accurate of these models. `goal` asks for the cheapest model of an accuracy, beside the `budgets` or alone.

    `base` trains a dense model that has random weights or other classes, before the search; `adapt` says whether this happens, None: where
    it is needed. `space` is a name, a file, or the space itself
    as a JSON object. `max_seconds` is the wall time of the trials; `max_hours` (wall time) and `max_cost` (money) are those of the whole
    search in all of its attempts; `stall_minutes` are those after which the process of a trial, or of another task, that
    does nothing is ended, 0 for never.
    `storage` and `tracking_uri` of None mean SQLite files in the output folder, `address` of None a local Ray, and `resources` of None one
    GPU with its share of the CPUs, or one CPU where there is no GPU; `threads` of None one for each of these CPUs. `probe` is the source
    of a labelled data set on which features are judged at the end, where `dataset` has no labels.
    `name` is what its user calls it; several jobs may share one. `output` is a folder of the driver's machine. With an `output_uri` the
    search's files lie there, the driver only works in the folder, and the machines need not share a file system.

    A job that was stored before there was a `prior` has none, so that it proposes as it did; a new one is given `auto` by `config.JobSpec`.
    """

    id: str
    model: ModelSpec
    more_models: tuple[ModelSpec, ...] = dataclasses.field(default=(), metadata=OPTIONAL)
    teacher: ModelSpec | None = dataclasses.field(default=None, metadata=OPTIONAL)
    dataset: DatasetSpec
    probe: str | None = dataclasses.field(default=None, metadata=OPTIONAL)
    budgets: tuple[Budget, ...]
    goal: AccuracyGoal | None = dataclasses.field(default=None, metadata=OPTIONAL)
    limits: CostLimits = dataclasses.field(default_factory=CostLimits)
    space: str = "default"
    trials: int = 24
    training: TrainingSettings = dataclasses.field(default_factory=TrainingSettings)
    base: TrainingSettings = dataclasses.field(default_factory=lambda: TrainingSettings(epochs=10.0, distillation=0.0))
    adapt: bool | None = dataclasses.field(default=None, metadata=OPTIONAL)
    sampler: str = "forest"
    prior: str = "none"
    scheduler: str = "halving"
    max_seconds: float | None = None
    max_epochs: float | None = None
    max_hours: float | None = dataclasses.field(default=None, metadata=OPTIONAL)
    max_cost: float | None = dataclasses.field(default=None, metadata=OPTIONAL)
    stall_minutes: float = dataclasses.field(default=STALL_MINUTES, metadata=OPTIONAL)
    plateau: int | None = None
    final_share: float = 0.25
    final_seeds: int = 1
    price_per_hour: float | None = None
    reuse: tuple[str, ...] = ()
    seed: int = 0
    class_query: bool = False
    bound: str = "max"
    speed: tuple[str, ...] = SPEED_MODES
    forms: tuple[str, ...] = dataclasses.field(default=DEFAULT_FORMS, metadata=OPTIONAL)
    max_form_drop: float = dataclasses.field(default=MAX_FORM_DROP, metadata=OPTIONAL)
    resources: Resources | None = None
    concurrency: int | None = None
    threads: int | None = dataclasses.field(default=None, metadata=OPTIONAL)
    address: str | None = None
    storage: str | None = None
    tracking_uri: str | None = None
    name: str | None = dataclasses.field(default=None, metadata=OPTIONAL)
    webhook: str | None = dataclasses.field(default=None, metadata=OPTIONAL)
    output: str
    output_uri: str | None = dataclasses.field(default=None, metadata=OPTIONAL)

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """All dense models that recipes may start from, the first one first."""
        return (self.model, *self.more_models)

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the models that it is to deliver: one for each budget, and one for the goal."""
        return (*(budget.label for budget in self.budgets), *(() if self.goal is None else (self.goal.label,)))

    def floor(self, dense_accuracy: float) -> Floor | None:
        """What the goal comes to, given the dense model's accuracy; None without a goal."""
        return None if self.goal is None else self.goal.floor(dense_accuracy)

    @property
    def starts(self) -> dict[str, ModelSpec]:
        """The dense models by the label that recipes name them with (`Recipe.model`). The only one has the label ''.

        The label is the model's name, or its folder's. Of equal ones all but the first have a number behind an @.
        """
        if not self.more_models:
            return {"": self.model}
        labels: dict[str, ModelSpec] = {}
        for spec in self.models:
            name, number = PurePath(spec.name).name, 1
            label = name
            while label in labels:
                number += 1
                label = f"{name}@{number}"
            labels[label] = spec
        return labels

    def budget_flops(self, dense_flops: int) -> dict[str, int]:
        """Multiply-accumulates by the budget's label, for a first dense model of `dense_flops`.

        Raises:
            BudgetError: the job's only dense model already is within a budget.
        """
        if self.more_models:
            # Another start may be above a budget that the first one is within.
            return {budget.label: budget.flops_of(dense_flops) for budget in self.budgets}
        return {budget.label: budget.resolve(dense_flops) for budget in self.budgets}
