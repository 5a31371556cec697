"""Life regression (arXiv 2304.04926): one regressor in front of the first drop predicts how many blocks each patch lives.

Equations and schedule after the paper and its public code. Ours, and different from it: the class token's key weight is always 1 in
the soft stage (the code lets it fall to 0.73 in the last block, which inference never sees); W starts as a scaled identity instead of
uniform noise; W c is computed once per image instead of once per patch, which gives the same logits for C^2 instead of P C^2
multiply-accumulates; the counts come from life thresholds, so that any budget can be met, not three keep rates only.

Shapes: B batch, N tokens, P patches, D width.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoslim.errors import UnsupportedModelError
from autoslim.flops.predict import LAYER_NORM
from autoslim.methods.base import Brief, Finished, Lesson, Method, Tensors, freeze
from autoslim.methods.knob import Knob, Ranges, complete
from autoslim.methods.pick import First, Pick, Rows
from autoslim.methods.tokens import behind_prefix, key_mask, order_by, standardise
from autoslim.methods.trunk import Trunk, blocks_of, install, refuse_mask
from autoslim.plan import Extra, Plan
from autoslim.recipe import Knobs
from autoslim.shape import ViTShape

MAX_DROPS = 4
_LONGEST = 0.98
"""The largest threshold: a fiftieth of the patches outlives every drop."""


class LifeRegressor(nn.Module):
    """logit_j = p_j^T W c on normalised tokens, c the class token (the mean token where there is none): (B, N, D) -> (B, P)."""

    def __init__(self, dim: int, num_prefix_tokens: int) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self.norm = nn.LayerNorm(dim)
        self.weight = nn.Parameter(torch.eye(dim) / math.sqrt(dim))

    def forward(self, x_BND: Tensor) -> Tensor:
        x_BND = self.norm(x_BND)
        patches_BPD = x_BND[:, self.num_prefix_tokens :]
        class_BD = x_BND[:, 0] if self.num_prefix_tokens else patches_BPD.mean(dim=1)
        return torch.matmul(patches_BPD, nn.functional.linear(class_BD, self.weight).unsqueeze(-1)).squeeze(-1)


class KeepLongestLived(Pick):
    """The first drop: patches sorted by life once, the first `patches` of them kept."""

    def __init__(self, regressor: LifeRegressor, patches: int) -> None:
        super().__init__()
        self.regressor = regressor
        self.patches = patches

    def rows(self, x_BND: Tensor) -> Rows:
        # Standardising keeps the order, so the finished model leaves it out.
        kept_BK = order_by(self.regressor(x_BND))[:, : self.patches]
        return behind_prefix(kept_BK, num_prefix_tokens=self.regressor.num_prefix_tokens)


class SoftLifeTrunk(nn.Module):
    """Stage 1: no token is removed, but from block a on key j counts sigmoid(-T (a - life_j)) in the softmax.

    Lives are standardised per image to the schedule's mean and deviation, in blocks; prefix tokens always count fully.
    """

    def __init__(
        self, blocks: list[nn.Module], regressor: LifeRegressor, *, first: int, life: tuple[float, float], temperature: float
    ):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.regressor = regressor
        self.first = first
        self.life = life
        self.temperature = temperature

    def forward(self, x_BND: Tensor) -> Tensor:
        for step in self:
            x_BND = step(x_BND)
        return x_BND

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        """Steps in a row, so that timm's gradient checkpointing works; from the regressor on, the lives go along with the tokens."""
        yield from self.blocks[: self.first]
        yield self._with_lives
        for index in range(self.first, len(self.blocks)):
            yield functools.partial(self._soft_block, index)
        yield _tokens_alone

    def _with_lives(self, x_BND: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> tuple[Tensor, Tensor]:
        refuse_mask(attn_mask, is_causal)
        return x_BND, self.lives(x_BND)

    def _soft_block(self, index: int, tokens_and_lives: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x_BND, life_BP = tokens_and_lives
        # The logarithm in one: a weight that underflows to 0 would leave a gradient of 0 / 0.
        weight_BP = functional.logsigmoid(self.temperature * (life_BP - index))
        prefix = weight_BP.new_zeros(len(weight_BP), self.regressor.num_prefix_tokens)
        mask_B11N = key_mask(torch.cat((prefix, weight_BP), dim=1)).to(x_BND.dtype)
        return self.blocks[index](x_BND, attn_mask=mask_B11N), life_BP

    def lives(self, x_BND: Tensor) -> Tensor:
        """How long each patch lives, in blocks from the model's start: (B, P)."""
        mean, std = self.life
        return standardise(self.regressor(x_BND).float(), mean=mean, std=std)


def _tokens_alone(tokens_and_lives: tuple[Tensor, Tensor]) -> Tensor:
    return tokens_and_lives[0]


def life_moments(
    drop_layers: list[int], patches_kept: list[int], *, patches: int, prefix: int, depth: int
) -> tuple[float, float]:
    """Mean and sample deviation, in blocks, of the lives that a schedule implies.

    After the code: the tokens that drop k takes lived until its block, those that none takes until the end; prefix tokens count.
    """
    counts = [patches + prefix, *(kept + prefix for kept in patches_kept), 0]
    ends = [*drop_layers, depth]
    lives = [
        float(end) for end, (before, after) in zip(ends, itertools.pairwise(counts), strict=True) for _ in range(before - after)
    ]
    return statistics.fmean(lives), statistics.stdev(lives)


def schedule(shape: ViTShape, knobs: Knobs) -> tuple[list[int], list[int]]:
    """The drop layers and the patches kept at each: those whose quantile of life lies above the threshold; at least one."""
    drops = range(1, knobs["drops"] + 1)
    layers = [knobs[f"drop_layer_{k}"] for k in drops]
    kept = [_patches_above(knobs[f"life_threshold_{k}"], shape) for k in drops]
    if knobs["spare_until"]:
        return [*layers, knobs["spare_until"]], [*kept[:-1], kept[-1] + 1, kept[-1]]
    return layers, kept


def _has_spare(shape: ViTShape, knobs: Knobs) -> bool:
    last = knobs["drops"]
    before = _patches_above(knobs[f"life_threshold_{last - 1}"], shape) if last > 1 else shape.patches
    return _patches_above(knobs[f"life_threshold_{last}"], shape) < before


def _patches_above(threshold: float, shape: ViTShape) -> int:
    return max(1, round(shape.patches * (1 - threshold)))


def _lies_in(knob: Knob, value: float, tolerance: float) -> bool:
    assert knob.low is not None and knob.high is not None
    return knob.low - tolerance <= value <= knob.high + tolerance


class LifeRegression(Method):
    """Knobs: up to four drops, each a block `drop_layer_k` and a `life_threshold_k`, the quantile of life that ends there."""

    name = "life_regression"
    paper = "https://arxiv.org/abs/2304.04926"
    ranges: ClassVar[Ranges] = {
        "drops": Knob(kind="choice", help="how often tokens are dropped", default=3, choices=tuple(range(1, MAX_DROPS + 1))),
        **{
            f"drop_layer_{k}": Knob(
                kind="layer", help=f"block in front of which drop {k} happens", default=k / (MAX_DROPS + 0.0), low=0.0, high=1.0
            )
            for k in range(1, MAX_DROPS + 1)
        },
        **{
            f"life_threshold_{k}": Knob(
                kind="float",
                help=f"share of the patches whose life has ended by drop {k}",
                default=round(1 - 0.7**k, 3),
                low=0.0,
                high=_LONGEST,
                priced=-1,
            )
            for k in range(1, MAX_DROPS + 1)
        },
        "spare_until": Knob(
            kind="int",
            help="block up to which the last drop keeps one patch more (0: none); the solver's",
            default=0,
            low=0,
            high=1000,
            searched=False,
        ),
        "temperature": Knob(
            kind="float", help="steepness T of the soft end of a life, per block", default=4.0, low=0.5, high=16.0, log=True
        ),
        "train_share": Knob(
            kind="float", help="share of the epochs spent on the regressor alone", default=0.2, low=0.02, high=0.6
        ),
        "regressor_lr": Knob(
            kind="float", help="regressor's learning rate over the recipe's", default=20.0, low=1.0, high=100.0, log=True
        ),
        "tune": Knob(
            kind="choice",
            help="what is tuned: blocks from the first drop on (paper) or all",
            default="all",
            choices=("blocks", "all"),
        ),
    }

    def check(self, shape: ViTShape) -> None:
        if shape.depth < 2:
            raise UnsupportedModelError(f"life regression needs at least 2 blocks, the model has {shape.depth}")

    def is_active(self, knob: str, chosen: Knobs) -> bool:
        number = knob.rpartition("_")[2]
        return not number.isdigit() or int(number) <= chosen["drops"]

    def repair(self, shape: ViTShape, knobs: Knobs) -> Knobs:
        """Layers and thresholds in rising order; two drops on one block become the harder one, and one that drops nothing goes."""
        full = complete(self.ranges, knobs, depth=shape.depth)
        drops = range(1, full["drops"] + 1)
        layers = sorted(full[f"drop_layer_{k}"] for k in drops)
        thresholds = sorted(full[f"life_threshold_{k}"] for k in drops)
        merged = dict(zip(layers, thresholds, strict=True))
        kept = {layer: _patches_above(threshold, shape) for layer, threshold in merged.items()}
        # The first stays where it is even if it drops nothing, because the regressor looks at the tokens there.
        real = [layer for before, layer in zip([None, *kept], kept, strict=False) if before is None or kept[layer] < kept[before]]
        full["drops"] = len(real)
        for k, layer in enumerate(real, 1):
            full[f"drop_layer_{k}"] = layer
            # The threshold of the count it selects, so that recipes with the same counts are the same recipe.
            full[f"life_threshold_{k}"] = min(1 - kept[layer] / shape.patches, _LONGEST)
        if not full[f"drop_layer_{full['drops']}"] < full["spare_until"] < shape.depth or not _has_spare(shape, full):
            full["spare_until"] = 0
        return {name: full[name] for name in self.ranges if self.is_active(name, full)}

    def expect(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> Plan:
        layers, kept = schedule(shape, knobs)
        tokens = []
        current = shape.tokens
        for index in range(shape.depth):
            if index in layers:
                current = min(current, kept[layers.index(index)] + shape.prefix_tokens)
            tokens.append(current)
        class_path = shape.dim * shape.dim
        regressor = Extra(
            name="life regressor",
            place=f"block {layers[0]}",
            matmuls=class_path + shape.patches * shape.dim,
            norms=LAYER_NORM * shape.tokens * shape.dim,
        )
        return plan.with_tokens(tuple(tokens)).replace(extras=(*plan.extras, regressor))

    def dearer(self, shape: ViTShape, knobs: Knobs, ranges: Ranges) -> Iterator[Knobs]:
        """One patch more at one drop, or one carried along behind the last."""
        kept = [_patches_above(knobs[f"life_threshold_{k}"], shape) for k in range(1, knobs["drops"] + 1)]
        for k, patches in enumerate(kept, 1):
            name = f"life_threshold_{k}"
            threshold = min(1 - (patches + 1) / shape.patches, _LONGEST)
            before = kept[k - 2] if k > 1 else shape.patches
            if patches < before and _lies_in(ranges[name], threshold, 0.5 / shape.patches):
                yield {**knobs, name: threshold}
        if not knobs["spare_until"]:
            # A patch less costs as much as all the blocks behind the drop; carried along for some of them, it costs one block's share.
            for block in range(knobs[f"drop_layer_{knobs['drops']}"] + 1, shape.depth):
                yield {**knobs, "spare_until": block}

    def attach(self, model: nn.Module, brief: Brief, images_B3HW: Tensor) -> nn.Module:
        shape, knobs = brief.shape, brief.knobs
        layers, kept = schedule(shape, knobs)
        regressor = LifeRegressor(shape.dim, shape.prefix_tokens)
        trunk = SoftLifeTrunk(
            blocks_of(model),
            regressor,
            first=layers[0],
            life=life_moments(layers, kept, patches=shape.patches, prefix=shape.prefix_tokens, depth=shape.depth),
            temperature=knobs["temperature"],
        )
        freeze(model)
        freeze(regressor, but=(regressor.weight,))
        return install(model, trunk)

    def learning_rates(self, student: nn.Module, knobs: Knobs) -> dict[str, float]:
        return {"regressor.weight": knobs["regressor_lr"]}

    def loss(self, knobs: Knobs, lesson: Lesson) -> Tensors:
        """The task's loss alone: the standardised lives keep the schedule by construction, so no FLOPs term is needed."""
        return {"loss": lesson.task_loss}

    def finish(self, student: nn.Module, brief: Brief) -> Finished:
        shape, knobs = brief.shape, brief.knobs
        trunk: Any = student.blocks
        finished = self.expect(shape, brief.plan, knobs)
        model = self._cut(student, list(trunk.blocks), trunk.regressor, shape, knobs)
        layers, _ = schedule(shape, knobs)
        model.requires_grad_(True)
        if knobs["tune"] == "blocks":
            freeze(model, but=tuple(blocks_of(model)[layers[0] :]))
        freeze(trunk.regressor)
        return Finished(model=model, plan=finished, knobs=knobs)

    def build(self, model: nn.Module, shape: ViTShape, plan: Plan, knobs: Knobs) -> nn.Module:
        return self._cut(model, blocks_of(model), LifeRegressor(shape.dim, shape.prefix_tokens), shape, knobs)

    def _cut(
        self, model: nn.Module, blocks: list[nn.Module], regressor: LifeRegressor, shape: ViTShape, knobs: Knobs
    ) -> nn.Module:
        layers, kept = schedule(shape, knobs)
        steps: dict[int, nn.Module] = {layers[0]: KeepLongestLived(regressor, kept[0])}
        for layer, patches in zip(layers[1:], kept[1:], strict=True):
            steps[layer] = First(patches + shape.prefix_tokens)
        return install(model, Trunk(blocks, steps))
