"""`Space`: the chains of methods that a search may use, the range of each of their knobs, and the training settings that vary.

A resolved space names every knob of its methods: its JSON says what was searched, even after a method's own ranges have changed.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from autoslim.core.recipe import AUGMENTATIONS, Knobs, Step, TrainingSettings
from autoslim.core.record import Record
from autoslim.core.shape import ViTShape
from autoslim.methods.base import Method
from autoslim.methods.chain import REST_SHARE, chain_label
from autoslim.methods.knob import Knob, Ranges, layer_index

_DEFAULTS = TrainingSettings()

TRAINING: Ranges = {
    "lr": Knob(kind="float", help="peak learning rate of the fine-tuning", default=_DEFAULTS.lr, low=1e-6, high=0.1, log=True),
    "batch_size": Knob(kind="int", help="images per step", default=_DEFAULTS.batch_size, low=1, high=4096, log=True),
    "weight_decay": Knob(
        kind="float",
        help="AdamW's weight decay",
        default=_DEFAULTS.weight_decay,
        low=1e-3,
        high=0.3,
        log=True,
        allowed=(0.0, 1.0),
    ),
    "warmup": Knob(kind="float", help="share of steps spent rising to the peak", default=_DEFAULTS.warmup, low=0.0, high=0.9),
    "final_rate": Knob(
        kind="float",
        help="share of the peak at which a cosine ends",
        default=_DEFAULTS.final_rate,
        low=1e-3,
        high=0.5,
        log=True,
        allowed=(0.0, 1.0),
    ),
    "cooldown": Knob(
        kind="float",
        help="share of the steps, the last, spent at the cosine's end",
        default=_DEFAULTS.cooldown,
        low=0.0,
        high=0.5,
    ),
    "label_smoothing": Knob(kind="float", help="label smoothing", default=_DEFAULTS.label_smoothing, low=0.0, high=0.5),
    "distillation": Knob(kind="float", help="weight of the teacher's labels", default=_DEFAULTS.distillation, low=0.0, high=1.0),
    "temperature": Knob(
        kind="float", help="temperature of the soft labels", default=_DEFAULTS.temperature, low=0.1, high=20.0, log=True
    ),
    "ema_decay": Knob(
        kind="float",
        help="decay of the weights' average",
        default=_DEFAULTS.ema_decay,
        low=0.9,
        high=0.99999,
        allowed=(0.0, 0.99999),
    ),
    "clip_norm": Knob(
        kind="float", help="gradient norm that is clipped to", default=_DEFAULTS.clip_norm, low=0.01, high=100.0, log=True
    ),
    "augmentation": Knob(kind="choice", help="augmentation of the images", default=_DEFAULTS.augmentation, choices=AUGMENTATIONS),
    "flip": Knob(kind="choice", help="mirror images left to right", default=_DEFAULTS.flip, choices=(False, True)),
    "mixup": Knob(kind="float", help="mixup's alpha", default=_DEFAULTS.mixup, low=0.0, high=1.0),
    "cutmix": Knob(
        kind="float", help="CutMix's alpha; with mixup, each batch has one of both", default=_DEFAULTS.cutmix, low=0.0, high=1.0
    ),
    "repeats": Knob(
        kind="int", help="augmentations of an image in a batch (DeiT's recipe has 3)", default=_DEFAULTS.repeats, low=1, high=8
    ),
    "rest_share": Knob(
        kind="float",
        help=f"share of the steps left that fine-tune a chain between its methods; 0: only where the second trains parts, for {REST_SHARE}",
        default=_DEFAULTS.rest_share,
        low=0.0,
        high=0.5,
    ),
}
"""Settings that a space may search. Epochs are not among them: trials are compared at equal cost."""

_OF_LABELS = ("label_smoothing", "distillation", "temperature")
"""Settings that only the loss of labels reads, hard ones or a teacher's."""

_OF_CHAINS = frozenset({"rest_share"})
"""Settings that have no effect on a method alone."""


class Suggest(Protocol):
    """What chooses a value: an Optuna trial, `Uniform`, `Mutation` or `Replay`. The methods are those of `optuna.Trial`."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


class Uniform:
    """Draws uniformly from each range, or from its logarithm where `log`."""

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


SPLIT = Knob(kind="float", help="share of log(dense / budget) that a chain's first step bears", default=0.5, low=0.2, high=0.8)
"""The range in a space that does not say another. Near 0 or 1 a chain is one of its methods alone, which has trials of its own."""

SPLIT_LIMITS = SPLIT.replace(low=0.05, high=0.95)
"""What a space's own range must be within."""

SPLIT_TOLERANCE = 0.1
"""How far the split of a solved chain may be outside of the range: a first step keeps whole units and so bears a little more than asked."""

Chain = tuple[str, ...]
"""Names of methods in the order in which they slim the model."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """One point of a space. `steps` have the active knobs of each method of the chain; `training` has the settings that replace the job's.

    `split` is the share of log(dense / budget) that the first step bears; None for a method alone. `model` is that of the recipe.
    """

    steps: tuple[Step, ...]
    training: dict[str, Any]
    split: float | None = None
    model: str = ""

    @property
    def method(self) -> str:
        """The chain's label, as in `Recipe.method`."""
        return chain_label([step.method for step in self.steps])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Space(Record):
    """`methods` holds every knob of each method in its narrowed range; a fixed knob has one value. `training` holds the settings that are
    searched.

    `chains` are the units that a recipe is chosen from; a method alone is a chain of one. Empty, as in spaces stored by earlier
    versions, is every method alone. `split` is the range of a chain's split.
    """

    name: str
    description: str
    methods: dict[str, Ranges]
    training: Ranges
    chains: tuple[Chain, ...] = ()
    split: Knob = SPLIT

    @property
    def units(self) -> dict[str, Chain]:
        """The chains by label, in any order."""
        chains = self.chains or tuple((name,) for name in self.methods)
        return {chain_label(chain): chain for chain in chains}

    def units_of(self, methods: Mapping[str, Method]) -> dict[str, Chain]:
        """The chains of these `methods` alone, by label: single methods first, and within both groups in the order of `methods`."""
        places = {name: place for place, name in enumerate(methods)}
        chains = [chain for chain in self.units.values() if set(chain) <= set(places)]
        # A space that was read back from JSON has lost the order of its methods.
        ordered = sorted(chains, key=lambda chain: (len(chain), [places[name] for name in chain]))
        return {chain_label(chain): chain for chain in ordered}

    @property
    def composes(self) -> bool:
        """Whether there is a chain of several steps."""
        return any(len(chain) > 1 for chain in self.chains)

    def for_features(self) -> Space:
        """Without the settings that no loss of features reads: a sampler would look for what they change."""
        return self.replace(training={name: knob for name, knob in self.training.items() if name not in _OF_LABELS})

    def sample(
        self,
        suggest: Suggest,
        methods: Mapping[str, Method],
        shape: ViTShape,
        *,
        units: Sequence[str] | None = None,
        asked_depth: int | None = None,
    ) -> Sample:
        """Asks `suggest` for one of `units`, then for the active knobs of its steps and its split, then for the training settings.

        `units` are labels of the space's chains; None: all chains of these `methods`. The order is that of `units`, of the methods'
        `ranges` and of `TRAINING`, never that of a file, so that a seed always gives the same point. With one unit there is no parameter
        `method`. Layers are asked for as blocks of a model of `asked_depth` (None: this one's), so that searches over models of
        different depths ask for each knob in one range.
        """
        depth = shape.depth if asked_depth is None else asked_depth
        labels = tuple(self.units_of(methods) if units is None else units)
        label = labels[0] if len(labels) == 1 else suggest.suggest_categorical("method", labels)
        chain = self.units[label]
        steps = [
            Step(method=name, knobs=self._sample_knobs(suggest, methods[name], shape, depth, is_last=position == len(chain)))
            for position, name in enumerate(chain, 1)
        ]
        split = sample_knob(suggest, "split", self.split, shape.depth) if len(chain) > 1 else None
        settings = self.settings_of(steps, methods)
        training = {key: sample_knob(suggest, f"training.{key}", self.training[key], shape.depth) for key in settings}
        return Sample(steps=tuple(steps), training=training, split=split)

    def with_fixed(self, training: TrainingSettings) -> TrainingSettings:
        """`training` with the settings that the space sets to one value: those of every trial, and of what trials share."""
        fixed: dict[str, Any] = {}
        for name, knob in self.training.items():
            if knob.choices is not None and len(knob.choices) == 1:
                fixed[name] = knob.choices[0]
            elif knob.choices is None and knob.low == knob.high:
                # A knob that was read from JSON has floats at its ends, whatever its kind.
                fixed[name] = int(knob.default) if knob.kind == "int" else knob.default
        return training.replace(**fixed)

    def settings_of(self, steps: Sequence[Step], methods: Mapping[str, Method]) -> list[str]:
        """The searched training settings that have an effect on a recipe with these steps."""
        idle = methods[steps[-1].method].replaced_settings(steps[-1].knobs)
        if len(steps) == 1:
            idle |= _OF_CHAINS
        return [key for key in TRAINING if key in self.training and key not in idle]

    def _sample_knobs(self, suggest: Suggest, method: Method, shape: ViTShape, depth: int, *, is_last: bool) -> Knobs:
        knobs: Knobs = {}
        fixed = {} if is_last else method.before_others
        for knob in method.ranges:
            # Whether a knob is active depends on those before it, such as the second drop on the number of drops.
            if knob in fixed:
                knobs[knob] = fixed[knob]
            elif method.is_active(knob, knobs):
                own = self.methods[method.name][knob]
                value = sample_knob(suggest, f"{method.name}.{knob}", own, depth) if own.searched else own.default
                knobs[knob] = moved_layer(own, value, depth, shape.depth)
        return knobs

    def contains(self, sample: Sample, shape: ViTShape) -> bool:
        """Whether its chain is one of the space's and all values are in their ranges.

        A priced knob may be half a patch outside: methods round it to a whole number of patches.
        """
        return (
            sample.method in self.units
            and all(self._contains_step(step, shape) for step in sample.steps)
            and (sample.split is None or is_inside(self.split, sample.split, shape.depth, tolerance=SPLIT_TOLERANCE))
            and all(is_inside(self.training[key], value, shape.depth) for key, value in sample.training.items())
        )

    def _contains_step(self, step: Step, shape: ViTShape) -> bool:
        ranges = self.methods.get(step.method, {})
        half = 0.5 / shape.patches + 1e-9
        return all(
            name in ranges and is_inside(ranges[name], value, shape.depth, tolerance=half if ranges[name].cost_sign else 0.0)
            for name, value in step.knobs.items()
        )


def bounds(knob: Knob, depth: int) -> tuple[float, float]:
    """Both ends of a numeric knob's range as a recipe holds them: block indices for a `layer`."""
    assert knob.low is not None
    assert knob.high is not None
    if knob.kind == "layer":
        return layer_index(knob.low, depth), layer_index(knob.high, depth)
    # A knob that was read from JSON has floats at its ends, whatever its kind.
    return (int(knob.low), int(knob.high)) if knob.kind == "int" else (knob.low, knob.high)


def moved_layer(knob: Knob, value: Any, depth: int, other: int) -> Any:
    """The value of a knob in a model of `depth` blocks as that of a model of `other` blocks: a `layer` keeps its share of the depth and
    stays within the range."""
    if knob.kind != "layer" or depth == other:
        return value
    low, high = bounds(knob, other)
    return min(max(layer_index(value / depth, other), int(low)), int(high))


def is_inside(knob: Knob, value: Any, depth: int, *, tolerance: float = 0.0) -> bool:
    """Whether a value is in a knob's range, up to `tolerance` at its ends; a number for a numeric knob, a whole one for all but `float`."""
    if knob.choices is not None:
        return any(is_same_value(choice, value) for choice in knob.choices)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    low, high = bounds(knob, depth)
    return low - tolerance <= value <= high + tolerance and (knob.kind == "float" or value == int(value))


def is_same_value(one: Any, other: Any) -> bool:
    """Equality that tells True from 1: both may be choices of one knob."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def sample_knob(suggest: Suggest, name: str, knob: Knob, depth: int) -> Any:
    """A value of the knob, asked for under `name`; a block index for a `layer`."""
    if knob.choices is not None:
        return suggest.suggest_categorical(name, knob.choices)
    low, high = bounds(knob, depth)
    if knob.kind == "float":
        return suggest.suggest_float(name, low, high, log=knob.log)
    return suggest.suggest_int(name, int(low), int(high), log=knob.log)
