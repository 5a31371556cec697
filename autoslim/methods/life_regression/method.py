"""Life regression (arXiv 2304.04926): one regressor, in front of the first drop, predicts how many blocks each patch lives.

The defaults are the paper's method, where its text leaves something open that of its public code: W starts uniform; lives end softly at
every block from the first drop on; the regressor is trained alone, then stays frozen while the blocks from the first drop on are tuned,
for as many epochs; both phases minimise the cross entropy of the labels, smoothed, at a learning rate that falls in a line; three drops at
equal distances.

Different from it, in the defaults too:

- Counts come from life thresholds and the default layers from the budget, so that any budget can be met; the code has three keep rates.
- The class token's key weight is always 1 in the soft stage; the code lets it fall to 0.73 in the last block, which inference never sees.
- W c is computed once per image instead of once per patch: the same logits for D^2 instead of P D^2 multiply-accumulates.
- Learning rate, warm-up, weight decay and epochs are the trial's.

Ours, as other values of knobs: `ends` `drops`, soft ends where the pruned form's are; `start` `attention`, W from the class token's own
attention, or `impact`, from Patch Slimming's scores (`impact_start`); `anneal`, soft ends that become sharp; `diversity`, lives that
know of each other (`regressor`); `noise` on the lives while they are trained (`layers.gumbel_noise`); `gradual`, counts that fall while
the blocks are tuned (`layers.gradual`); `loss` `recipe`, with the teacher's soft labels; `lr_decay` `cosine`, as in other methods; `tune`
`all` blocks; `last_reading`, patches that a drop removes are still read by its block (`layers.rectangular_block`); `dead` `merge`, they
join the most similar of those that stay (`layers.merging`).

Two modes. *Fixed*, the paper's own: every image keeps as many patches as the schedule says. *Threshold*: a patch stays while its life
is longer than the index of the block that it enters, as the code does when it evaluates its weights at 1/2. Ours is that such patches
are really removed, at the schedule's drops only, and that a cap limits how many stay. The caps are the schedule's counts, so that every
image stays within the budget. Where the budget holds for the mean, they are `HEADROOM` times that, and `calibrate` moves the lives' mean
until the images' mean FLOPs are within the budget.

The modules are in `regressor`. Shapes: B batch, P patches, D width, L blocks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autoslim.core.plan import Extra, Plan
from autoslim.core.recipe import Knobs
from autoslim.core.shape import ViTShape
from autoslim.errors import UnsupportedModelError
from autoslim.methods.base import Method, ModuleFactory, SlimmedModel, StepContext, freeze
from autoslim.methods.knob import Knob, Ranges, complete
from autoslim.methods.layers.adaptive_trunk import AdaptiveTrunk, TokenDrop, refuse_pooling
from autoslim.methods.layers.backbone import install
from autoslim.methods.layers.gradual import prune_gradually
from autoslim.methods.layers.merging import MERGING, MergeTokens, check_pooling, install_merging, merges, merging_prices
from autoslim.methods.layers.rectangular_block import install_rectangular
from autoslim.methods.layers.sublayer import check_parts, check_tokens
from autoslim.methods.layers.token_counts import image_flops
from autoslim.methods.layers.token_selector import FirstTokens, TokenSelector
from autoslim.methods.layers.token_trunk import Trunk, blocks_of
from autoslim.methods.life_regression.impact_start import init_from_impact
from autoslim.methods.life_regression.knobs import EARLIER, LONGEST, RANGES, one_line, real_drops
from autoslim.methods.life_regression.regressor import (
    LIKENESS,
    REGRESSOR,
    KeepLongestLived,
    LifeRegressor,
    LikenessOfPatches,
    Lives,
    SoftLifeTrunk,
    likeness_price,
    patch_lives,
    regressor_price,
)
from autoslim.methods.life_regression.schedule import (
    EVERY,
    dropping_blocks,
    moments,
    patches_above,
    reads_once_more,
    schedule,
    soft_ends,
    spare_until,
    tokens_per_block,
)
from autoslim.methods.patch_slimming.pyramid import rectangular
from autoslim.methods.trainer import COSINE, DISTILLATION, DistillationBatch, Tensors

HEADROOM = 1.25
"""The caps over the schedule's counts where the budget holds for the mean: room for images that need more patches."""

_READ_ATTENTION = ("attention", "impact")
"""Starts of the regressor that read the weights or the maps of a block's attention."""

_MARGIN = 0.005
"""Share of a budget for the mean that stays unused, because the mean is checked on other images than those of the calibration."""

_BISECTIONS = 30
"""Steps over an interval of twice the depth: down to 2^-30 of it, below any difference of two lives."""


class LifeRegression(Method):
    """Drops in front of blocks `drop_layer_k`, where the share `life_threshold_k` of all lives has ended, or in front of every block."""

    name = "life_regression"
    paper = "https://arxiv.org/abs/2304.04926"
    ranges: ClassVar[Ranges] = RANGES

    def check(self, shape: ViTShape) -> None:
        check_tokens(self.name, shape)
        if shape.depth < 2:
            raise UnsupportedModelError(f"life regression needs at least 2 blocks, the model has {shape.depth}")

    def is_active(self, knob: str, chosen: Knobs) -> bool:
        # Merging, and a block that reads more patches than it computes, have static numbers of both.
        if knob in ("dead", "last_reading", "gradual"):
            return bool(chosen["mode"] == "fixed")
        if knob == "tune_pruned":
            return bool(chosen["tune"] == "blocks")
        kind, _, number = knob.rpartition("_")
        if not number.isdigit():
            return True
        if chosen["drops"] == EVERY:
            # Counts fall on a line from the first of these blocks to the last.
            return int(number) <= (1 if kind == "drop_layer" else 2)
        return bool(int(number) <= chosen["drops"])

    def repair(self, shape: ViTShape, knobs: Knobs) -> Knobs:
        """Layers and thresholds in rising order; of two drops on one block the harder one stays, and one that removes nothing is left out.

        Raises:
            UnsupportedModelError: for threshold mode where the head reads patches, for `dead` `merge` where it cannot weight them, and for
                a start that reads an attention which is no part of its own.
        """
        if "spare_until" in knobs:
            # Only complete knobs have it: what is missing then is younger than the recipe.
            knobs = {**EARLIER, **knobs}
        full = complete(self.ranges, knobs, depth=shape.depth)
        if full["mode"] == "threshold":
            refuse_pooling("life regression in threshold mode", shape)
        elif merges(full):
            check_pooling("life_regression with dead 'merge'", shape)
        if reads_once_more(full):
            check_parts("life_regression with last_reading", shape)
        if full["start"] in _READ_ATTENTION and any(block.whole or block.norms_behind for block in shape.blocks):
            raise UnsupportedModelError(
                f"life regression with start {full['start']!r} reads the attention of a block on its own, and this model's blocks are "
                "parallel or post-norm; allowed: the other starts"
            )
        full |= one_line(shape, full) if full["drops"] == EVERY else real_drops(shape, full)
        full["spare_until"] = spare_until(shape, full)
        return {name: full[name] for name in self.ranges if self.is_active(name, full)}

    def expect(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> Plan:
        if any(block.tokens_kv < shape.tokens for block in plan.blocks):
            raise UnsupportedModelError("life regression needs all the patches, and an earlier step has dropped some")
        layers, kept = schedule(shape, knobs)
        where = (layers[0], shape.tokens, shape.prefix_tokens, shape.dim)
        own = [regressor_price(*where)]
        if float(knobs.get("diversity", 0.0)) > 0:
            own.append(likeness_price(*where))
        tokens = tokens_per_block(shape, layers, kept)
        merging: tuple[Extra, ...] = ()
        if merges(knobs):
            patches = {layer: (tokens[layer - 1] - shape.prefix_tokens, tokens[layer] - shape.prefix_tokens) for layer in layers}
            merging = merging_prices(shape, {layer: pair for layer, pair in patches.items() if pair[1] < pair[0]})
        if reads_once_more(knobs):
            return rectangular(shape, plan, [count - shape.prefix_tokens for count in tokens], (*own, *merging))
        return plan.with_tokens(tokens).replace(extras=(*plan.extras, *own, *merging))

    def costlier(self, shape: ViTShape, knobs: Knobs, ranges: Ranges) -> Iterator[Knobs]:
        """One patch more at one drop, or one patch that outlives the last drop by some blocks."""
        drops = 2 if knobs["drops"] == EVERY else knobs["drops"]
        kept = [patches_above(knobs[f"life_threshold_{k}"], shape) for k in range(1, drops + 1)]
        for k, patches in enumerate(kept, 1):
            name = f"life_threshold_{k}"
            threshold = min(1 - (patches + 1) / shape.patches, LONGEST)
            before = kept[k - 2] if k > 1 else shape.patches
            if patches < before and _lies_in(ranges[name], threshold, 0.5 / shape.patches):
                yield {**knobs, name: threshold}
        if not knobs["spare_until"]:
            # A patch more at the last drop runs through all blocks behind it; one that lives for some of them fills the budget more finely.
            last = 1 if knobs["drops"] == EVERY else drops
            for block in range(knobs[f"drop_layer_{last}"] + 1, dropping_blocks(shape, knobs)):
                yield {**knobs, "spare_until": block}

    def attach(self, model: nn.Module, context: StepContext, images_B3HW: Tensor) -> nn.Module:
        shape, knobs = context.shape, context.knobs
        regressor = LifeRegressor.of_shape(shape, knobs)
        blocks = blocks_of(model)
        start = knobs.get("start", EARLIER["start"])
        if start == "attention":
            regressor.init_from_attention(blocks[knobs["drop_layer_1"]])
        elif start == "impact":
            layers, kept = schedule(shape, knobs)
            counts = [tokens - shape.prefix_tokens for tokens in tokens_per_block(shape, layers, kept)]
            init_from_impact(regressor.to(images_B3HW), context.to_measure(model), images_B3HW, shape, counts, layers[0])
        trunk = SoftLifeTrunk(
            blocks,
            regressor,
            ends=soft_ends(shape, knobs),
            life=moments(shape, knobs),
            temperature=knobs["temperature"],
            noise=float(knobs.get("noise", 0.0)),
        )
        freeze(model)
        freeze(regressor, but=(regressor.weight,))
        return install(model, trunk)

    def priced_modules(self) -> dict[str, ModuleFactory]:
        def first_drop(shape: ViTShape, tokens: int, left: int) -> nn.Module:
            # The moments leave the time as it is: the finished model does not standardise.
            return KeepLongestLived(LifeRegressor.of_shape(shape), left - shape.prefix_tokens, (0.0, 1.0))

        return {
            REGRESSOR: first_drop,
            LIKENESS: lambda shape, tokens, left: LikenessOfPatches(shape.prefix_tokens),
            MERGING: lambda shape, tokens, left: MergeTokens(left, shape.prefix_tokens),
        }

    def learning_rates(self, student: nn.Module, knobs: Knobs) -> dict[str, float]:
        return {"regressor.weight": knobs["regressor_lr"]}

    def loss(self, knobs: Knobs, batch: DistillationBatch) -> Tensors:
        """The labels' or the task's loss alone: standardised lives keep the schedule by construction, so that no FLOPs term is needed."""
        # From ends as soft as the paper's to ends as sharp as the pruned form's.
        trunk: Any = batch.student.blocks
        trunk.temperature = knobs["temperature"] * float(knobs.get("anneal", 1.0)) ** batch.progress
        return _loss(knobs, batch)

    def finetune_loss(self, knobs: Knobs, batch: DistillationBatch) -> Tensors:
        prune_gradually(batch.student, knobs, batch.progress)
        return _loss(knobs, batch)

    def lr_decay(self, knobs: Knobs) -> str:
        return str(knobs.get("lr_decay", EARLIER["lr_decay"]))

    def replaced_settings(self, knobs: Knobs) -> frozenset[str]:
        """The recipe's distillation, where the labels' loss alone is minimised, and how its cosine ends, where the rate falls in a line."""
        line = COSINE if self.lr_decay(knobs) == "linear" else frozenset()
        return line | (DISTILLATION if _ignores_teacher(knobs) else frozenset())

    def prune(self, student: nn.Module, context: StepContext) -> SlimmedModel:
        shape, knobs = context.shape, context.knobs
        trunk: Any = student.blocks
        finished = self.expect(shape, context.plan, knobs)
        if knobs["mode"] == "threshold" and context.bound == "mean":
            layers, kept = schedule(shape, knobs)
            caps = [min(shape.patches, math.ceil(HEADROOM * patches)) for patches in kept]
            finished = context.plan.with_tokens(tokens_per_block(shape, layers, caps)).replace(extras=finished.extras)
        model = self._with_drops(student, list(trunk.blocks), trunk.regressor, shape, finished, knobs)
        model.requires_grad_(True)
        if knobs["tune"] == "blocks":
            freeze(model, but=tuple(_tuned_blocks(blocks_of(model), context)))
        freeze(trunk.regressor)
        return SlimmedModel(model=model, plan=finished, knobs=knobs)

    def calibrate(self, model: nn.Module, context: StepContext, images: Callable[[], Iterator[Tensor]]) -> None:
        """Where the budget holds for the mean: shifts all lives alike, as far up as the images' mean FLOPs allow."""
        if context.knobs["mode"] != "threshold" or context.bound != "mean":
            return
        trunk: Any = model.blocks
        lives: Lives = trunk.stages[context.knobs["drop_layer_1"]].pre_block.scorer
        life_BP = torch.cat([patch_lives(model, images_B3HW).cpu() for images_B3HW in images()])
        # The regressor is in front of every drop, so that counts at any shift follow from its lives without another pass. More life is
        # more FLOPs: bisect the shift; `low` is always within the budget.
        low, high = -float(context.shape.depth), float(context.shape.depth)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            flops_B = image_flops(model, context.shape, context.plan, _counts(trunk, context, life_BP + middle))
            if flops_B.double().mean() <= (1 - _MARGIN) * context.budget:
                low = middle
            else:
                high = middle
        mean: Tensor = lives.mean  # type: ignore[assignment]
        mean += low

    def build(self, model: nn.Module, shape: ViTShape, plan: Plan, knobs: Knobs) -> nn.Module:
        return self._with_drops(model, blocks_of(model), LifeRegressor.of_shape(shape, knobs), shape, plan, knobs)

    def _with_drops(
        self, model: nn.Module, blocks: list[nn.Module], regressor: LifeRegressor, shape: ViTShape, plan: Plan, knobs: Knobs
    ) -> nn.Module:
        """Installs the drops: where is up to the knobs, how many patches they leave up to the plan."""
        (first, *later), _ = schedule(shape, knobs)
        tokens = (
            tokens_per_block(shape, *schedule(shape, knobs)) if reads_once_more(knobs) else [b.tokens_kv for b in plan.blocks]
        )
        left = {layer: tokens[layer] for layer in (first, *later)}
        if knobs["mode"] == "threshold":
            lives = Lives(regressor, moments(shape, knobs))
            drops = {
                layer: TokenDrop(
                    cap=tokens - shape.prefix_tokens,
                    threshold=layer,
                    num_prefix_tokens=shape.prefix_tokens,
                    scorer=lives if layer == first else None,
                )
                for layer, tokens in left.items()
            }
            return install(model, AdaptiveTrunk(blocks, drops))
        # With a drop in front of every block, some have nothing to remove.
        pairs = itertools.pairwise((first, *later))
        selectors: dict[int, TokenSelector] = {
            layer: FirstTokens(left[layer]) for before, layer in pairs if left[layer] < left[before]
        }
        selectors[first] = KeepLongestLived(regressor, left[first] - shape.prefix_tokens, moments(shape, knobs))
        inside = reads_once_more(knobs)
        if merges(knobs):
            return install_merging(model, shape, blocks, selectors, inside=inside)
        return install_rectangular(model, blocks, selectors) if inside else install(model, Trunk(blocks, selectors))


def _counts(trunk: AdaptiveTrunk, context: StepContext, life_BP: Tensor) -> Tensor:
    """Tokens that enter and leave each block's attention, computed from the lives (B, P) alone: (B, L, 2)."""
    tokens_B = torch.full((len(life_BP),), context.shape.tokens)
    drops = dict(trunk.drops())
    counts = []
    for index, block in enumerate(context.plan.blocks):
        if index in drops:
            tokens_B = (life_BP > index).sum(dim=1).clamp(min=1, max=drops[index].cap) + context.shape.prefix_tokens
        counts.append(torch.stack((tokens_B, tokens_B.clamp(max=block.tokens_mlp)), dim=1))
    return torch.stack(counts, dim=1)


def _loss(knobs: Knobs, batch: DistillationBatch) -> Tensors:
    return {"loss": batch.label_loss if _ignores_teacher(knobs) else batch.task_loss}


def _ignores_teacher(knobs: Knobs) -> bool:
    return bool(knobs.get("loss", EARLIER["loss"]) == "labels")


def _tuned_blocks(blocks: list[nn.Module], context: StepContext) -> list[nn.Module]:
    """Those from the first drop on, and in front of it those that an earlier step has pruned: they have to recover."""
    knobs = context.knobs
    pruned = context.plan.narrowed(context.shape) if knobs.get("tune_pruned", EARLIER["tune_pruned"]) else ()
    return [block for index, block in enumerate(blocks) if index >= knobs["drop_layer_1"] or index in pruned]


def _lies_in(knob: Knob, value: float, tolerance: float) -> bool:
    assert knob.low is not None and knob.high is not None
    return knob.low - tolerance <= value <= knob.high + tolerance
