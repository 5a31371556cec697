"""Life regression (arXiv 2304.04926): one regressor, in front of the first drop, predicts how many blocks each patch lives.

Equations and schedule follow the paper and its public code. Ours, and different from it:

- The class token's key weight is always 1 in the soft stage; the code lets it fall to 0.73 in the last block, which inference never sees.
- With `ends` `drops` (the default) lives end softly where the pruned form's drops end them. With the paper's ends, `blocks`, lives of the
  schedule's moments keep far more patches at a drop than the schedule, so that the regressor learns for a model that is never run.
- W starts at the class token's own attention instead of uniform noise.
- W c is computed once per image instead of once per patch: the same logits for D^2 instead of P D^2 multiply-accumulates.
- Counts come from life thresholds, so that any budget can be met, not only those of three keep rates.
- Both phases minimise the task's loss with the teacher's soft labels; the code uses labels alone.
- With `dead` `merge` the patches that a drop removes join the most similar of those that stay (`layers.merging`); the paper drops them.
- By default all blocks are fine-tuned; the paper tunes those from the first drop on (`tune` `blocks`).

Two modes. *Fixed*, the paper's own: every image keeps as many patches as the schedule says. *Threshold*: a patch stays while its life
is longer than the index of the block that it enters, as the code does when it evaluates its weights at 1/2. Ours is that such patches
are really removed, at the schedule's drops only, and that a cap limits how many stay. The caps are the schedule's counts, so that every
image stays within the budget. Where the budget holds for the mean, they are `HEADROOM` times that, and `calibrate` moves the lives' mean
until the images' mean FLOPs are within the budget.

The modules are in `regressor`. Shapes: B batch, P patches, D width, L blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autoslim.core.plan import Extra, Plan
from autoslim.core.recipe import Knobs
from autoslim.core.shape import ViTShape
from autoslim.errors import UnsupportedModelError
from autoslim.methods.base import DistillationBatch, Method, ModuleFactory, SlimmedModel, StepContext, Tensors, freeze
from autoslim.methods.knob import Knob, Ranges, complete
from autoslim.methods.layers.adaptive_trunk import AdaptiveTrunk, Drop, refuse_pooling
from autoslim.methods.layers.merging import DEAD, MERGING, MergeTokens, check_pooling, install_merging, merges, merging_prices
from autoslim.methods.layers.sublayer import RemovedSublayer
from autoslim.methods.layers.token_counts import image_flops
from autoslim.methods.layers.token_selector import FirstTokens, TokenSelector
from autoslim.methods.layers.token_trunk import Trunk, blocks_of, install
from autoslim.methods.life_regression.regressor import (
    REGRESSOR,
    KeepLongestLived,
    LifeRegressor,
    Lives,
    SoftLifeTrunk,
    patch_lives,
    regressor_price,
)
from autoslim.methods.life_regression.schedule import (
    has_spare,
    moments,
    patches_above,
    schedule,
    soft_ends,
    tokens_per_block,
)

MAX_DROPS = 4
"""The paper's schedule has three; each has knobs of its own, which a search has to explore."""

_LONGEST = 0.98
"""The largest threshold: at least a fiftieth of the patches outlives every drop."""

HEADROOM = 1.25
"""The caps over the schedule's counts where the budget holds for the mean: room for images that need more patches."""

_MARGIN = 0.005
"""Share of a budget for the mean that stays unused, because the mean is checked on other images than those of the calibration."""

_BISECTIONS = 30
"""Steps over an interval of twice the depth: down to 2^-30 of it, below any difference of two lives."""


class LifeRegression(Method):
    """Up to four drops, each in front of block `drop_layer_k`, where the share `life_threshold_k` of all lives has ended."""

    name = "life_regression"
    paper = "https://arxiv.org/abs/2304.04926"
    ranges: ClassVar[Ranges] = {
        "mode": Knob(
            kind="choice",
            help="every image keeps as many patches (paper), or those whose life is longer, up to as many",
            default="fixed",
            choices=("fixed", "threshold"),
        ),
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
                cost_sign=-1,
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
        "dead": DEAD,
        "ends": Knob(
            kind="choice",
            help="where lives end softly: at every block (paper) or where the pruned form's do, at the drops",
            default="drops",
            choices=("drops", "blocks"),
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
        # Merging has a static number of patches that go.
        if knob == "dead":
            return bool(chosen["mode"] == "fixed")
        number = knob.rpartition("_")[2]
        return not number.isdigit() or int(number) <= chosen["drops"]

    def repair(self, shape: ViTShape, knobs: Knobs) -> Knobs:
        """Layers and thresholds in rising order; of two drops on one block the harder one stays, and one that removes nothing is left out.

        Raises:
            UnsupportedModelError: for threshold mode where the head reads patches, and for `dead` `merge` where it cannot weight them.
        """
        full = complete(self.ranges, knobs, depth=shape.depth)
        if full["mode"] == "threshold":
            refuse_pooling("life regression in threshold mode", shape)
        elif merges(full):
            check_pooling("life_regression with dead 'merge'", shape)
        drops = range(1, full["drops"] + 1)
        layers = sorted(full[f"drop_layer_{k}"] for k in drops)
        thresholds = sorted(full[f"life_threshold_{k}"] for k in drops)
        merged = dict(zip(layers, thresholds, strict=True))
        kept = {layer: patches_above(threshold, shape) for layer, threshold in merged.items()}
        # The first drop stays even if it removes nothing, because it is where the regressor runs.
        real = [layer for before, layer in zip([None, *kept], kept, strict=False) if before is None or kept[layer] < kept[before]]
        full["drops"] = len(real)
        for k, layer in enumerate(real, 1):
            full[f"drop_layer_{k}"] = layer
            # The threshold that corresponds exactly to its count, so that equal counts are equal recipes.
            full[f"life_threshold_{k}"] = min(1 - kept[layer] / shape.patches, _LONGEST)
        if not full[f"drop_layer_{full['drops']}"] < full["spare_until"] < shape.depth or not has_spare(shape, full):
            full["spare_until"] = 0
        return {name: full[name] for name in self.ranges if self.is_active(name, full)}

    def expect(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> Plan:
        if any(block.tokens_kv < shape.tokens for block in plan.blocks):
            raise UnsupportedModelError("life regression needs all the patches, and an earlier step has dropped some")
        layers, kept = schedule(shape, knobs)
        regressor = regressor_price(layers[0], shape.tokens, shape.prefix_tokens, shape.dim)
        tokens = tokens_per_block(shape, layers, kept)
        merging: tuple[Extra, ...] = ()
        if merges(knobs):
            patches = {layer: (tokens[layer - 1] - shape.prefix_tokens, tokens[layer] - shape.prefix_tokens) for layer in layers}
            merging = merging_prices(shape, {layer: pair for layer, pair in patches.items() if pair[1] < pair[0]})
        return plan.with_tokens(tokens).replace(extras=(*plan.extras, regressor, *merging))

    def costlier(self, shape: ViTShape, knobs: Knobs, ranges: Ranges) -> Iterator[Knobs]:
        """One patch more at one drop, or one patch that outlives the last drop by some blocks."""
        kept = [patches_above(knobs[f"life_threshold_{k}"], shape) for k in range(1, knobs["drops"] + 1)]
        for k, patches in enumerate(kept, 1):
            name = f"life_threshold_{k}"
            threshold = min(1 - (patches + 1) / shape.patches, _LONGEST)
            before = kept[k - 2] if k > 1 else shape.patches
            if patches < before and _lies_in(ranges[name], threshold, 0.5 / shape.patches):
                yield {**knobs, name: threshold}
        if not knobs["spare_until"]:
            # A patch more at the last drop runs through all blocks behind it; one that lives for some of them fills the budget more finely.
            for block in range(knobs[f"drop_layer_{knobs['drops']}"] + 1, shape.depth):
                yield {**knobs, "spare_until": block}

    def attach(self, model: nn.Module, context: StepContext, images_B3HW: Tensor) -> nn.Module:
        shape, knobs = context.shape, context.knobs
        regressor = LifeRegressor(shape.dim, shape.prefix_tokens)
        blocks = blocks_of(model)
        first: Any = blocks[knobs["drop_layer_1"]]
        if not isinstance(first.attn, RemovedSublayer):
            regressor.init_from_attention(first)
        trunk = SoftLifeTrunk(
            blocks,
            regressor,
            ends=soft_ends(shape, knobs),
            life=moments(shape, knobs),
            temperature=knobs["temperature"],
        )
        freeze(model)
        freeze(regressor, but=(regressor.weight,))
        return install(model, trunk)

    def priced_modules(self) -> dict[str, ModuleFactory]:
        def first_drop(shape: ViTShape, tokens: int, left: int) -> nn.Module:
            # The moments leave the time as it is: the finished model does not standardise.
            return KeepLongestLived(LifeRegressor(shape.dim, shape.prefix_tokens), left - shape.prefix_tokens, (0.0, 1.0))

        return {REGRESSOR: first_drop, MERGING: lambda shape, tokens, left: MergeTokens(left, shape.prefix_tokens)}

    def learning_rates(self, student: nn.Module, knobs: Knobs) -> dict[str, float]:
        return {"regressor.weight": knobs["regressor_lr"]}

    def loss(self, knobs: Knobs, batch: DistillationBatch) -> Tensors:
        """The task's loss alone: standardised lives keep the schedule by construction, so that no FLOPs term is needed."""
        return {"loss": batch.task_loss}

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
            freeze(model, but=tuple(blocks_of(model)[knobs["drop_layer_1"] :]))
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
        return self._with_drops(model, blocks_of(model), LifeRegressor(shape.dim, shape.prefix_tokens), shape, plan, knobs)

    def _with_drops(
        self, model: nn.Module, blocks: list[nn.Module], regressor: LifeRegressor, shape: ViTShape, plan: Plan, knobs: Knobs
    ) -> nn.Module:
        """Installs the drops: where is up to the knobs, how many patches they leave up to the plan."""
        (first, *later), _ = schedule(shape, knobs)
        left = {layer: plan.blocks[layer].tokens_kv for layer in (first, *later)}
        if knobs["mode"] == "threshold":
            lives = Lives(regressor, moments(shape, knobs))
            drops = {
                layer: Drop(
                    cap=tokens - shape.prefix_tokens,
                    threshold=layer,
                    num_prefix_tokens=shape.prefix_tokens,
                    scorer=lives if layer == first else None,
                )
                for layer, tokens in left.items()
            }
            return install(model, AdaptiveTrunk(blocks, drops))
        selectors: dict[int, TokenSelector] = {layer: FirstTokens(left[layer]) for layer in later}
        selectors[first] = KeepLongestLived(regressor, left[first] - shape.prefix_tokens, moments(shape, knobs))
        if merges(knobs):
            return install_merging(model, shape, blocks, selectors, inside=False)
        return install(model, Trunk(blocks, selectors))


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


def _lies_in(knob: Knob, value: float, tolerance: float) -> bool:
    assert knob.low is not None and knob.high is not None
    return knob.low - tolerance <= value <= knob.high + tolerance
