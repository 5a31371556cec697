"""From ViT-Slim's trained masks (arXiv 2201.00814) to a ranking of everything that may be removed, the least valuable first.

`rank_removals` makes the ranking, `budget_pruning.prune_to_budget` decides how much of it a budget takes. Two rules order it.

`fall` (ours): one ranking over attention, MLP and patches. A mask under the l1 pull w falls the less, the more the task depends on it.
At rest it is at 1 - w / h for a curvature h of the loss; on the way there, under Adam, it moves by w over the root mean square of the
task's gradient. In both cases w / fall measures how much the unit matters. Units are compared by that over cost^cost_power: with a
power of 1/2 this is the order of loss over cost, because the loss is quadratic in the mask. Units that are removed together count as
the root of their mean square.

`value` (the paper): attention, MLP and patches have a ranking each, by signed mask value, across all layers. Of n units
in rising order the first int((1 - b) n) are removed. Ours is that the three b fall together until the budget is met: 1 - b = t times
the part's share in `RankingOptions.removable`.

Ours, too: the heads of a layer keep equally many dimensions, each its own. The paper masks them raggedly, which no dense layer can
compute. A unit of attention is therefore the next dimension of all heads of a layer, or a whole head.

Shapes: L layers, H heads, K head width, F hidden units, P patches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from autoslim.core.plan import BlockPlan, Plan
from autoslim.core.shape import ViTShape
from autoslim.cost.flops import block_matmuls, block_norms, predict
from autoslim.methods.vit_slim.budget_pruning import Removal, with_tokens
from autoslim.methods.vit_slim.mask_search import Masks

RULES = ("fall", "value")
NESTINGS = ("down", "up")
"""`down`, the paper's text: a patch removed in one layer is removed in all deeper ones. `up`, its code: a patch that a layer keeps is kept
in all shallower ones. In both, each layer's patches are a subset of those of the layer before; `up` keeps more."""

WHOLES = ("none", "heads", "sublayers")
"""What may be removed whole: nothing (each layer keeps every head and one unit), heads, or heads and sub-layers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankingOptions:
    """How units are ranked. `l1` are Eq. 1's weights (w1, w2, w3) of the mask search.

    `removable` are the shares of attention, MLP and patches that may be removed: under `fall` at most that share of the part, under
    `value` shares in this proportion. More is removed only where the budget cannot be met otherwise. Under `fall` patches are removed
    first until they have saved `patch_share` of the multiply-accumulates to save, each patch at its price in the dense model; the rest
    of the patches compete with the widths.
    """

    rule: str
    l1: tuple[float, float, float]
    cost_power: float
    width_multiple: int
    whole: str
    nesting: str
    removable: tuple[float, float, float]
    patch_share: float


_LEAST_FALL = 1e-3
"""Keeps the worth of the highest mask finite; masks start at 1, so this is a thousandth of their range."""


def scores(masks: Sequence[Masks], shape: ViTShape, plan: Plan, options: RankingOptions) -> list[Masks]:
    """Every unit's worth in the place of its mask: w / fall over cost^cost_power, or under `value` the mask itself.

    `plan` gives the tokens that units are priced at. A patch's fall is measured before its tanh.
    """
    if options.rule == "value":
        return list(masks)
    # The fall counts from the highest mask, not from 1, because a mask may also rise; so it is never negative. Patches start elsewhere and
    # have a highest of their own; their tanh is left out because Adam normalises its slope away.
    top = max(float(zeta.max()) for mask in masks for zeta in (mask.head_HK, mask.hidden_F))
    patch_top = max(float(mask.patch_P.max()) for mask in masks)
    scored = []
    for mask, block in zip(masks, plan.blocks, strict=True):
        w1, w2, w3 = (w / cost**options.cost_power for w, cost in zip(options.l1, unit_costs(shape, block), strict=True))
        scored.append(
            Masks(
                head_HK=w1 / (top - mask.head_HK + _LEAST_FALL),
                hidden_F=w2 / (top - mask.hidden_F + _LEAST_FALL),
                patch_P=w3 / (patch_top - mask.patch_P + _LEAST_FALL),
            )
        )
    return scored


def unit_costs(shape: ViTShape, block: BlockPlan) -> tuple[float, float, float]:
    """Multiply-accumulates of one dimension of one head, of one hidden unit, and of one patch in this block."""
    # Query, key, value and projection of one dimension, and its products in QK^T and AV.
    per_dim = 2 * shape.dim * (block.tokens_q + block.tokens_kv) + 2 * block.tokens_q * block.tokens_kv
    fewer = with_tokens(block, block.tokens_kv - 1)
    patch = block_matmuls(shape, block) + block_norms(shape, block) - block_matmuls(shape, fewer) - block_norms(shape, fewer)
    # A block without any sub-layer costs nothing.
    return per_dim, 2 * shape.dim * block.tokens_mlp, max(patch, 1)


def width_before(width: int, multiple: int) -> int:
    """The next smaller width that is allowed: a multiple, or 0."""
    return (width - 1) // multiple * multiple


def attention_chain(worth_HK: Tensor, block: int, options: RankingOptions) -> list[Removal]:
    """The removals of one layer's attention, each the cheaper loss of two: the last dimensions of all remaining heads, or the weakest head.

    `worth_HK` may be in any order along K: each head loses its own least valuable dimensions first.
    """
    worth_HK = worth_HK.sort(dim=1, descending=True).values
    heads, width = tuple(range(len(worth_HK))), worth_HK.shape[1]
    chain: list[Removal] = []
    while heads:
        # Candidates: narrow every head, or remove one head whole where that is allowed and another remains.
        candidates = [(heads, narrower)] if (narrower := width_before(width, options.width_multiple)) else []
        if len(heads) > 1 and options.whole != "none":
            weakest = min(heads, key=lambda head: _pooled(worth_HK[head, :width], options))
            candidates.append((tuple(head for head in heads if head != weakest), width))
        # Neither is possible: only the whole sub-layer is left to remove.
        if not candidates and options.whole == "sublayers":
            candidates.append(((), 0))
        if not candidates:
            break
        worth, left, narrower = min(
            (_pooled(_lost(worth_HK, heads, width, left, narrower), options), left, narrower) for left, narrower in candidates
        )
        chain.append(
            Removal(
                block=block,
                chain=("attention", block),
                worth=worth,
                size=len(heads) * width - len(left) * narrower,
                before={"heads": heads, "head_width": width},
                after={"heads": left, "head_width": narrower},
            )
        )
        heads, width = left, narrower
    return _rising(chain)


def _lost(worth_HK: Tensor, heads: tuple[int, ...], width: int, left: tuple[int, ...], narrower: int) -> Tensor:
    """The worths of all dimensions that are removed: those of removed heads, and the last ones of the heads that stay."""
    gone = [head for head in heads if head not in left]
    return torch.cat((worth_HK[gone, :width].flatten(), worth_HK[list(left), narrower:width].flatten()))


def mlp_chain(worth_F: Tensor, block: int, options: RankingOptions) -> list[Removal]:
    """The removals of one layer's hidden units in rising order of worth, `width_multiple` of them at once."""
    worth_F = worth_F.sort(descending=True).values
    chain: list[Removal] = []
    width = len(worth_F)
    while width:
        narrower = width_before(width, options.width_multiple)
        if not narrower and options.whole != "sublayers":
            break
        chain.append(
            Removal(
                block=block,
                chain=("mlp", block),
                worth=_pooled(worth_F[narrower:width], options),
                size=width - narrower,
                before={"hidden": width},
                after={"hidden": narrower},
            )
        )
        width = narrower
    return _rising(chain)


def nested(worth_LP: Tensor, nesting: str) -> Tensor:
    """`worth_LP` made non-increasing from layer to layer, so that every threshold keeps nested sets of patches."""
    # `down`: a low worth in one layer lowers all deeper ones. `up`: a high worth in one layer raises all shallower ones.
    if nesting == "down":
        return worth_LP.cummin(dim=0).values
    return worth_LP.flip(0).cummax(dim=0).values.flip(0)


def patch_chains(worth_LP: Tensor) -> list[Removal]:
    """A chain per patch, which removes it from the deepest layer up; `worth_LP` is `nested`. One patch stays in all layers."""
    layers, patches = worth_LP.shape
    # With pooling over patches the head would have nothing to read otherwise.
    best = int(worth_LP[-1].argmax())
    return [
        Removal(block=block, chain=("patch", patch), worth=float(worth_LP[block, patch]), size=1, patch=patch)
        for patch in range(patches)
        if patch != best
        for block in reversed(range(layers))
    ]


def _pooled(worth: Tensor, options: RankingOptions) -> float:
    # Under `fall` worth is a gradient's size, and the losses of independent units add up in squares.
    return float(worth.mean() if options.rule == "value" else worth.square().mean().sqrt())


def _rising(chain: list[Removal]) -> list[Removal]:
    """The chain with worths that never fall, so that sorting by worth keeps its order.

    A step that can only follow a more valuable one is removed no earlier than that, and gets its worth.
    """
    risen, highest = [], float("-inf")
    for removal in chain:
        highest = max(highest, removal.worth)
        risen.append(dataclasses.replace(removal, worth=highest))
    return risen


def rank_removals(
    masks: Sequence[Masks], shape: ViTShape, plan: Plan, priced: Plan, options: RankingOptions, budget: int
) -> list[Removal]:
    """Everything that may be removed from `plan`, in order; units cost what they cost in the plan `priced`.

    `budget` is in multiply-accumulates; only `patch_share` depends on it.
    """
    # 1. A worth for every unit, then a chain of removals for every attention, MLP and patch.
    scored = scores(masks, shape, priced, options)
    patch_LP = torch.stack([own.patch_P for own in scored])
    if options.rule == "value":
        # The paper thresholds the masks themselves and nests afterwards: ranks make the threshold a count, as int((1 - b) n) is.
        patch_LP = patch_LP.flatten().argsort(stable=True).argsort().view(patch_LP.shape).to(patch_LP.dtype)
    parts = (
        [step for block, own in enumerate(scored) for step in attention_chain(own.head_HK, block, options)],
        [step for block, own in enumerate(scored) for step in mlp_chain(own.hidden_F, block, options)],
        patch_chains(nested(patch_LP, options.nesting)) if options.removable[2] else [],
    )
    # 2. One row per part, in rising order of worth. The sort is stable, so that the steps of a chain stay in their order.
    sizes = (shape.heads * shape.head_width, shape.hidden, shape.patches)
    rows = [sorted(part, key=lambda step: step.worth) for part in parts]
    # 3. A common key across the parts: `fall` compares worths, `value` the share of its part that is gone over the share it may lose.
    keyed: list[tuple[tuple[int, float], Removal]] = []
    for row, give, size in zip(rows, options.removable, sizes, strict=True):
        given = 0
        for step in row:
            given += step.size
            if options.rule == "fall":
                keyed.append(((_BEYOND if given > give * size * shape.depth else _RANKED, step.worth), step))
            else:
                went = given if step.patch is None else step.worth + 1
                keyed.append(((_RANKED if give else _BEYOND, went / (size * shape.depth) / (give or 1.0)), step))
    # 4. Patches that have to bear their share of the reduction go to the front.
    first = {id(step) for step in _patches_first(rows[2], shape, plan, options, budget)}
    keyed = [((_FIRST if id(step) in first else key[0], key[1]), step) for key, step in keyed]
    return [step for _, step in sorted(keyed, key=lambda pair: pair[0])]


_FIRST, _RANKED, _BEYOND = range(3)
"""Classes of the ranking: patches up to `patch_share`, what is removable, and what goes only where nothing else is left."""


def _patches_first(row: list[Removal], shape: ViTShape, plan: Plan, options: RankingOptions, budget: int) -> list[Removal]:
    """The first patch removals, until they save `patch_share` of the multiply-accumulates to save."""
    to_save = options.patch_share * (predict(shape, plan).total - budget)
    costs = [unit_costs(shape, block)[2] for block in plan.blocks]
    first, saved = [], 0.0
    for step in row:
        if saved >= to_save:
            break
        saved += costs[step.block]
        first.append(step)
    return first
