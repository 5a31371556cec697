"""The table of real trials, read back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow.parquet as pq

from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe, TrainingSettings
from autoslim.core.result import BaseFacts, Phase
from autoslim.core.shape import ViTShape

TRIALS = Path(__file__).parents[1] / "data" / "trials_cifar10_d64.parquet"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """A trial's accuracy after so many epochs; `phase` is PRUNE or FINETUNE, `seconds` the processor's since the trial began."""

    epoch: float
    phase: Phase
    accuracy: float
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A complete trial. `repeats` is the number of the trial of the same recipe with another seed."""

    number: int
    repeats: int | None
    target: str
    recipe: Recipe
    plan: Plan
    flops: int
    accuracy: float
    curve: tuple[Point, ...]

    @property
    def group(self) -> int:
        """The same for all trials of one recipe: they are never on both sides of a cross-validation."""
        return self.number if self.repeats is None else self.repeats


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trials:
    """`steps` are the training steps of an epoch; `failed` is how many of the table's trials were not completed."""

    rows: tuple[Row, ...]
    shape: ViTShape
    base: BaseFacts
    training: TrainingSettings
    steps: int
    failed: int

    @classmethod
    def read(cls, path: Path = TRIALS) -> Trials:
        table = pq.read_table(path)
        about = {key.decode().removeprefix("autoslim."): text.decode() for key, text in table.schema.metadata.items()}
        found = table.to_pylist()
        training = TrainingSettings.from_json(about["training"])
        return cls(
            rows=tuple(_row(values) for values in found if values["state"] == "complete"),
            shape=ViTShape.from_json(about["shape"]),
            base=BaseFacts.from_json(about["base"]),
            training=training,
            steps=int(about["images"]) // training.batch_size,
            failed=sum(values["state"] != "complete" for values in found),
        )


def _row(values: dict) -> Row:  # type: ignore[type-arg]
    return Row(
        number=values["number"],
        repeats=values["repeats"],
        target=values["target"],
        recipe=Recipe.from_json(values["recipe"]),
        plan=Plan.from_json(values["plan"]),
        flops=values["flops"],
        accuracy=values["accuracy"],
        curve=tuple(Point(**{**point, "phase": Phase(point["phase"])}) for point in values["curve"]),
    )
