"""`PriorTable`: trials of one model in a form that does not depend on its size, as JSON with a line per trial."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from typing import Any

from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe, Step
from autoslim.core.record import Record
from autoslim.core.shape import ViTShape
from autoslim.cost import predict
from autoslim.methods.base import Method
from autoslim.methods.chain import split_of_recipe
from autoslim.methods.knob import Knob

FORMAT = 1
"""Version of the files. A reader of another version would misread them, so that it rises with every change of a field's meaning."""
_DIGITS = 4
"""Of shares and accuracies: a ten-thousandth is a tenth of what one of 1,000 validation images is worth."""

BlockShares = tuple[float, float, float, float, float]
"""A block's tokens that give keys and values, that give queries, that enter the MLP, its attention width and its hidden units, each as a
share of the dense model's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PriorTrial(Record):
    """A complete trial.

    `steps` have the knobs as in a recipe, except for a `layer`, which is a share of the depth. `flops` and `extras` are shares of the dense
    model's multiply-accumulates; `lost` is the dense model's accuracy less the trial's, both on the same images. `split` is the share of
    the reduction that the first step bears, 1 for a method alone.
    """

    steps: tuple[Step, ...]
    flops: float
    extras: float
    blocks: tuple[BlockShares, ...]
    lost: float
    split: float = 1.0

    def is_of(self, methods: Collection[str]) -> bool:
        """Whether all of its methods are among `methods`; a table may know methods that a search does not have."""
        return all(step.method in methods for step in self.steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PriorTable(Record):
    """`command` made the trials of `model` from `data`; `depth` is the model's, `epochs` and `images` are those that each trial was trained
    for. The file is called `name`."""

    format: int
    name: str
    model: str
    data: str
    command: str
    depth: int
    dense_accuracy: float
    epochs: float
    images: int
    trials: tuple[PriorTrial, ...]

    def __post_init__(self) -> None:
        assert self.format == FORMAT, f"{self.model}: a prior table of format {self.format}; allowed: {FORMAT}"

    def to_lines(self) -> str:
        """The file: JSON with a line per field and a line per trial, so that a change of a trial is a change of a line."""
        about = {name: value for name, value in self.to_dict().items() if name != "trials"}
        head = "".join(f" {json.dumps(name)}: {json.dumps(value)},\n" for name, value in about.items())
        trials = ",\n".join("  " + json.dumps(trial.to_dict()) for trial in self.trials)
        return f'{{\n{head} "trials": [\n{trials}\n ]\n}}\n'


def prior_trial(recipe: Recipe, plan: Plan, lost: float, *, shape: ViTShape, methods: Mapping[str, Method]) -> PriorTrial:
    """A trial of a model of this shape."""
    dense = predict(shape, Plan.dense(shape, class_query=recipe.class_query)).total
    cost, split = predict(shape, plan), split_of_recipe(recipe, methods, shape)
    return PriorTrial(
        steps=tuple(_relative(step, shape, methods[step.method]) for step in recipe.steps),
        flops=round(cost.total / dense, _DIGITS),
        extras=round(cost.extras / dense, _DIGITS),
        blocks=tuple(tuple(round(share, _DIGITS) for share in block) for block in block_shares(plan, shape)),  # type: ignore[misc]
        lost=round(lost, _DIGITS),
        split=1.0 if split is None else round(split, _DIGITS),
    )


def block_shares(plan: Plan, shape: ViTShape) -> list[BlockShares]:
    """Of each block."""
    return [
        (
            block.tokens_kv / own.tokens,
            block.tokens_q / own.tokens,
            block.tokens_mlp / own.tokens,
            block.attention_width / own.attention_width,
            block.hidden / own.hidden,
        )
        for block, own in zip(plan.blocks, shape.blocks, strict=True)
    ]


def _relative(step: Step, shape: ViTShape, method: Method) -> Step:
    ranges = method.ranges
    # Repaired: a recipe that is older than a knob gets the value that it was run with.
    repaired = method.repair(shape, {name: _inside(ranges[name], value) for name, value in step.knobs.items()})
    knobs: dict[str, Any] = {}
    for name, value in repaired.items():
        is_layer = ranges[name].kind == "layer"
        knobs[name] = round(value / shape.depth, _DIGITS) if is_layer else _short(_inside(ranges[name], value))
    return step.replace(knobs=knobs)


def _inside(knob: Knob, value: Any) -> Any:
    """A share that was rounded to a whole count, and so moved a little out of its range, is put back."""
    return min(max(value, knob.widest[0]), knob.widest[1]) if knob.kind == "float" else value


def _short(value: Any) -> Any:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
