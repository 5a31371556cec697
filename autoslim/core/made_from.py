"""`MadeFrom`: all that has to be known to make a slimmed model again."""

from __future__ import annotations

import dataclasses

from autoslim.core.job import DatasetSpec, ModelSpec
from autoslim.core.recipe import Recipe, TrainingSettings
from autoslim.core.record import OPTIONAL, Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class MadeFrom(Record):
    """`recipe` is the one that the training began with; a chain may end with other knobs.

    `model` is the dense model before it was adapted by `base`, `adapt` and `seed`, as in `SearchJob`; `teacher` another one that gave the
    soft labels. `shared_training` are the settings of work that trials of a search share, where they are not the recipe's. `threads` are
    PyTorch's, which change the order of sums. `digests` are those of the prepared images (`data`) and of the adapted dense model's
    weights (`dense`). `tuned` are the epochs of each further fine-tuning.
    """

    recipe: Recipe
    budget_label: str
    model: ModelSpec
    teacher: ModelSpec | None = dataclasses.field(default=None, metadata=OPTIONAL)
    dataset: DatasetSpec
    probe: str | None = dataclasses.field(default=None, metadata=OPTIONAL)
    base: TrainingSettings
    adapt: bool | None = dataclasses.field(default=None, metadata=OPTIONAL)
    shared_training: TrainingSettings | None = dataclasses.field(default=None, metadata=OPTIONAL)
    seed: int
    threads: int
    digests: dict[str, str] = dataclasses.field(default_factory=dict)
    tuned: tuple[float, ...] = dataclasses.field(default=(), metadata=OPTIONAL)
