"""`Recipe`: everything that determines one trial's result, with a stable key."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal, get_args

from autoslim.core.constraints import CostLimits
from autoslim.core.record import OPTIONAL, Record, digest_of

Knobs = dict[str, Any]
"""A method's settings by name, as JSON values; `Method.ranges` defines them."""


Bound = Literal["max", "mean"]
"""What a budget holds for where the number of tokens varies: every image, or the mean over images."""

Augmentation = Literal["none", "light", "strong", "deit", "imagenet"]
AUGMENTATIONS: tuple[Augmentation, ...] = get_args(Augmentation)
"""How training images are augmented: `deit` as in DeiT's recipe, `imagenet` as timm does by default, `light` and `strong` as is ours."""

PrecisionName = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
PRECISIONS: dict[PrecisionName, str] = {
    "auto": "auto",
    "fp32": "float32",
    "tf32": "tf32",
    "bf16": "bfloat16",
    "fp16": "float16",
}
"""What training computes in, as users name it and as a recipe does."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSettings(Record):
    """The hyperparameters of training. `epochs` counts all of a trial's passes over the training images, the method's own included.

    `lr` is the peak learning rate of AdamW at this batch size; `warmup` the share of steps spent rising to it. A cosine ends at the share
    `final_rate` of the peak, where the share `cooldown` of the steps, the last ones, stays.
    `distillation` is the weight of the dense teacher's soft labels in the loss (0: labels only).
    `augmentation` is one of `AUGMENTATIONS`; `flip` mirrors images left to right where the augmentation is not `none`.
    `mixup` and `cutmix` are their alphas, 0 for none; of both, each batch has one.
    `repeats` is how often an image is in a batch, each time augmented otherwise; an epoch has as many augmented images as without.
    `precision` is a value of `PRECISIONS`; `auto` is the fastest one that the device has instructions for.
    `rest_share` is the share of the optimizer steps left for which a chain is fine-tuned between two of its methods; with 0 it is only
    where the second one trains parts, and otherwise both prune at once.
    A batch is computed in `grad_accum_steps` parts, one after the other, whose gradients are added up: a step is that of the whole batch.
    `grad_checkpointing` computes the activations of each block a second time instead of keeping them; `compile` compiles the blocks.
    """

    epochs: float = 3.0
    batch_size: int = 64
    lr: float = 5e-4
    weight_decay: float = 0.05
    warmup: float = 0.1
    label_smoothing: float = 0.1
    distillation: float = 0.5
    temperature: float = 1.0
    ema_decay: float = 0.99
    clip_norm: float = 1.0
    augmentation: str = "light"
    flip: bool = True
    mixup: float = 0.0
    precision: str = "auto"
    cutmix: float = dataclasses.field(default=0.0, metadata=OPTIONAL)
    repeats: int = dataclasses.field(default=1, metadata=OPTIONAL)
    grad_accum_steps: int = dataclasses.field(default=1, metadata=OPTIONAL)
    grad_checkpointing: bool = dataclasses.field(default=False, metadata=OPTIONAL)
    compile: bool = dataclasses.field(default=False, metadata=OPTIONAL)
    rest_share: float = dataclasses.field(default=0.0, metadata=OPTIONAL)
    final_rate: float = dataclasses.field(default=0.01, metadata=OPTIONAL)
    cooldown: float = dataclasses.field(default=0.0, metadata=OPTIONAL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step(Record):
    """One method with its knobs, already solved onto the budget."""

    method: str
    knobs: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(Record):
    """A sequence of steps (usually one; width before tokens when composed) under a FLOPs budget.

    `budget` is in multiply-accumulates per image. With `class_query` the last block computes queries, projection and MLP for the prefix
    tokens alone, with any method; the logits are the same. Where tokens vary from image to image, `bound` says whether the budget holds
    for every image (`max`) or for their mean (`mean`). `limits` hold besides the budget. `model` is the label of the dense model that it
    starts from (`SearchJob.starts`); empty for the job's only one, or its first.
    """

    steps: tuple[Step, ...]
    budget: int
    training: TrainingSettings
    seed: int
    class_query: bool = False
    bound: str = "max"
    limits: CostLimits = dataclasses.field(default_factory=CostLimits)
    model: str = dataclasses.field(default="", metadata=OPTIONAL)

    @functools.cached_property
    def key(self) -> str:
        """Names the trial's folder and checkpoint; the same recipe run again finds them, and so does one without limits of an earlier
        version, which knew of none."""
        fields = {name: value for name, value in self.to_dict().items() if name != "limits" or self.limits.given}
        return digest_of(fields)

    @property
    def method(self) -> str:
        return "+".join(step.method for step in self.steps)

    @property
    def title(self) -> str:
        """The methods, and where a search has several dense models, which of them they slim: `width of deit_small_patch16_224`."""
        return title_of(self.method, self.model)

    @property
    def flat_knobs(self) -> dict[str, Any]:
        """As `flat_knobs`."""
        return flat_knobs(self.steps)


def title_of(method: str, model: str | None) -> str:
    """`Recipe.title` of what has these two."""
    return f"{method} of {model}" if model else method


def flat_knobs(steps: Sequence[Step]) -> dict[str, Any]:
    """`{"vit_slim.depth": 9}`; a method that comes twice is `vit_slim` and `vit_slim@2`."""
    flat: dict[str, Any] = {}
    seen: list[str] = []
    for step in steps:
        seen.append(step.method)
        times = seen.count(step.method)
        method = step.method if times == 1 else f"{step.method}@{times}"
        flat |= {f"{method}.{name}": value for name, value in step.knobs.items()}
    return flat
