"""`Space`: which methods a search may use, how far each of their knobs may go, and which training settings vary.

A resolved space names every knob of its methods: its JSON says what was searched, whatever becomes of the methods' own ranges.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from autoslim.core.recipe import Knobs, Training
from autoslim.core.record import Record
from autoslim.core.shape import ViTShape
from autoslim.methods.base import Method
from autoslim.methods.knob import Knob, Ranges, layer_index

_USUAL = Training()

TRAINING: Ranges = {
    "lr": Knob(kind="float", help="peak learning rate of the finetune phase", default=_USUAL.lr, low=1e-6, high=0.1, log=True),
    "batch_size": Knob(kind="int", help="images per step", default=_USUAL.batch_size, low=1, high=4096, log=True),
    "weight_decay": Knob(kind="float", help="AdamW's weight decay", default=_USUAL.weight_decay, low=0.0, high=1.0),
    "warmup": Knob(kind="float", help="share of steps spent rising to the peak", default=_USUAL.warmup, low=0.0, high=0.9),
    "label_smoothing": Knob(kind="float", help="label smoothing", default=_USUAL.label_smoothing, low=0.0, high=0.5),
    "distillation": Knob(kind="float", help="weight of the teacher's labels", default=_USUAL.distillation, low=0.0, high=1.0),
    "temperature": Knob(kind="float", help="temperature of the soft labels", default=_USUAL.temperature, low=0.1, high=20.0),
    "ema_decay": Knob(kind="float", help="decay of the weights' average", default=_USUAL.ema_decay, low=0.0, high=0.99999),
    "clip_norm": Knob(kind="float", help="gradient norm that is clipped to", default=_USUAL.clip_norm, low=0.01, high=100.0),
    "augmentation": Knob(kind="choice", help="strength", default=_USUAL.augmentation, choices=("none", "light", "strong")),
    "flip": Knob(kind="choice", help="mirror images left to right", default=_USUAL.flip, choices=(False, True)),
    "mixup": Knob(kind="float", help="mixup's alpha", default=_USUAL.mixup, low=0.0, high=1.0),
}
"""Settings a space may search. Epochs are not among them: trials are compared at equal cost."""


class Suggest(Protocol):
    """What draws a value: an Optuna trial, or `Uniform`."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


class Uniform:
    """Blind draws: uniform over each range, or over its logarithm where the knob says so."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)  # noqa: S311 - nothing secret

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        if not log:
            return min(low + (high - low) * self._random.random(), high)
        return float(min(max(low * (high / low) ** self._random.random(), low), high))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        if not log:
            return self._random.randint(low, high)
        return min(int(low * ((high + 1) / low) ** self._random.random()), high)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return choices[self._random.randrange(len(choices))]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draw:
    """One point of a space. `knobs` are those of `method`, active ones only; `training` the settings that replace the job's."""

    method: str
    knobs: Knobs
    training: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Space(Record):
    """`methods` holds every knob of each method, narrowed; a fixed one has one value. `training` holds what the file names."""

    name: str
    description: str
    methods: dict[str, Ranges]
    training: Ranges

    def sample(self, suggest: Suggest, methods: Mapping[str, Method], shape: ViTShape, *, among: Sequence[str]) -> Draw:
        """Asks for the method (one of `among`), then for its knobs that are active, then for the training settings.

        The order is the registry's, never that of a file or of JSON, so that the same seed draws the same point.
        """
        name = among[0] if len(among) == 1 else suggest.suggest_categorical("method", tuple(among))
        knobs: Knobs = {}
        for knob in methods[name].ranges:
            if methods[name].is_active(knob, knobs):
                own = self.methods[name][knob]
                knobs[knob] = draw_knob(suggest, f"{name}.{knob}", own, shape.depth) if own.searched else own.default
        settings = [key for key in TRAINING if key in self.training]
        training = {key: draw_knob(suggest, f"training.{key}", self.training[key], shape.depth) for key in settings}
        return Draw(method=name, knobs=knobs, training=training)

    def contains(self, draw: Draw, shape: ViTShape) -> bool:
        """Whether a recipe's knobs lie in the ranges; a method may have moved them when it put them right.

        A priced knob may lie half a patch beyond: methods round it to the count that it stands for.
        """
        ranges = self.methods.get(draw.method, {})
        half = 0.5 / shape.patches + 1e-9
        return all(
            name in ranges and inside(ranges[name], value, shape.depth, tolerance=half if ranges[name].cost_sign else 0.0)
            for name, value in draw.knobs.items()
        ) and all(inside(self.training[key], value, shape.depth) for key, value in draw.training.items())


def bounds(knob: Knob, depth: int) -> tuple[float, float]:
    """The ends of a numeric knob as a recipe holds them: block indices for a `layer`."""
    assert knob.low is not None
    assert knob.high is not None
    if knob.kind == "layer":
        return layer_index(knob.low, depth), layer_index(knob.high, depth)
    return knob.low, knob.high


def inside(knob: Knob, value: Any, depth: int, *, tolerance: float = 0.0) -> bool:
    if knob.choices is not None:
        return any(same(choice, value) for choice in knob.choices)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    low, high = bounds(knob, depth)
    return low - tolerance <= value <= high + tolerance and (knob.kind == "float" or value == int(value))


def same(one: Any, other: Any) -> bool:
    """Equal, but true is not 1."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def draw_knob(suggest: Suggest, name: str, knob: Knob, depth: int) -> Any:
    if knob.choices is not None:
        return suggest.suggest_categorical(name, knob.choices)
    low, high = bounds(knob, depth)
    if knob.kind == "float":
        return suggest.suggest_float(name, low, high, log=knob.log)
    return suggest.suggest_int(name, int(low), int(high), log=knob.log)
