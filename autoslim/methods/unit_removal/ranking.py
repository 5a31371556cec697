"""From the worth of every unit to a ranking of everything that may be removed, the least valuable first.

`order_removals` makes the ranking, `budget_pruning.prune_to_budget` decides how much of it a budget takes. The heads of a layer keep
equally many dimensions, each its own: heads of different widths, as masks leave them, no dense layer can compute. A unit of attention is
therefore the next dimension of all heads of a layer, or a whole head.

Shapes: L layers, H heads, K head width, F hidden units, P patches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from autoslim.core.plan import BlockPlan, Plan
from autoslim.core.shape import BlockShape, ViTShape
from autoslim.cost.flops import block_matmuls, block_norms, predict
from autoslim.methods.unit_removal.budget_pruning import Removal, with_tokens

NESTINGS = ("down", "up")
"""`down`, ViT-Slim's text: a patch removed in one layer is removed in all deeper ones. `up`, its code: a patch that a layer keeps is kept
in all shallower ones. In both, each layer's patches are a subset of those of the layer before; `up` keeps more."""

WHOLES = ("none", "heads", "sublayers")
"""What may be removed whole: nothing (each layer keeps every head and one unit), heads, or heads and sub-layers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitWorths:
    """The worth of a block's head dimensions (H, K), hidden units (F,) and patches (P,); None where patches stay.

    A worth is the size of a gradient over the unit's cost to some power, unless `RemovalOptions.separate`.
    """

    head_HK: Tensor
    hidden_F: Tensor
    patch_P: Tensor | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemovalOptions:
    """In which order units are removed.

    Attributes:
        separate: Attention, MLP and patches have a ranking each and are removed in proportion, instead of one common ranking.
        width_multiple: Widths stay multiples of this.
        whole: What may be removed whole, one of `WHOLES`.
        nesting: How the patches of the layers depend on each other, one of `NESTINGS`.
        removable: The shares of attention, MLP and patches that may be removed: at most that share of the part, or shares in this
            proportion where `separate`. More is removed only where the budget cannot be met otherwise.
        patch_share: Patches are removed first until they have saved this share of the multiply-accumulates to save, each patch at its
            price in the dense model; the rest of the patches compete with the widths. Only in a common ranking.
    """

    separate: bool = False
    width_multiple: int = 1
    whole: str = "none"
    nesting: str = "down"
    removable: tuple[float, float, float] = (1.0, 1.0, 0.0)
    patch_share: float = 0.0


def unit_costs(own: BlockShape, block: BlockPlan) -> tuple[float, float, float]:
    """Multiply-accumulates of one dimension of one head, of one hidden unit, and of one patch in this block."""
    # Query, key, value and projection of one dimension, and its products in QK^T and AV.
    per_dim = 2 * own.dim * (block.tokens_q + block.tokens_kv) + 2 * block.tokens_q * (own.window or block.tokens_kv)
    fewer = with_tokens(block, block.tokens_kv - 1)
    patch = block_matmuls(own, block) + block_norms(own, block) - block_matmuls(own, fewer) - block_norms(own, fewer)
    # A block without any sub-layer costs nothing.
    return per_dim, own.mlp_matrices * own.dim * block.tokens_mlp, max(patch, 1)


def head_multiple(own: BlockShape, multiple: int) -> int:
    """What widths of heads are multiples of, where the user asks for `multiple`.

    A norm over a head's queries or keys, or their rotation, mixes its dimensions, so that none can be removed exactly: such heads go whole
    or stay whole.
    """
    return own.head_width if own.tied_dims else multiple


def width_before(width: int, multiple: int) -> int:
    """The next smaller width that is allowed: a multiple, or 0."""
    return (width - 1) // multiple * multiple


def attention_chain(worth_HK: Tensor, block: int, options: RemovalOptions) -> list[Removal]:
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


def mlp_chain(worth_F: Tensor, block: int, options: RemovalOptions) -> list[Removal]:
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


def _pooled(worth: Tensor, options: RemovalOptions) -> float:
    # Worths in a common ranking are gradients' sizes, and the losses of independent units add up in squares.
    return float(worth.mean() if options.separate else worth.square().mean().sqrt())


def _rising(chain: list[Removal]) -> list[Removal]:
    """The chain with worths that never fall, so that sorting by worth keeps its order.

    A step that can only follow a more valuable one is removed no earlier than that, and gets its worth.
    """
    risen, highest = [], float("-inf")
    for removal in chain:
        highest = max(highest, removal.worth)
        risen.append(dataclasses.replace(removal, worth=highest))
    return risen


def order_removals(
    worths: Sequence[UnitWorths], shape: ViTShape, plan: Plan, options: RemovalOptions, budget: int
) -> list[Removal]:
    """Everything that may be removed from `plan`, in order; `worths` are by block.

    `budget` is in multiply-accumulates; only `patch_share` depends on it.
    """
    # 1. A chain of removals for every attention, MLP and patch.
    attention = [dataclasses.replace(options, width_multiple=head_multiple(own, options.width_multiple)) for own in shape.blocks]
    parts = (
        [step for block, own in enumerate(worths) for step in attention_chain(own.head_HK, block, attention[block])],
        [step for block, own in enumerate(worths) for step in mlp_chain(own.hidden_F, block, options)],
        patch_chains(nested(_patch_worths(worths, options), options.nesting)) if options.removable[2] else [],
    )
    # 2. One row per part, in rising order of worth. The sort is stable, so that the steps of a chain stay in their order.
    sizes = (sum(b.attention_width for b in shape.blocks), sum(b.hidden for b in shape.blocks), shape.patches * shape.depth)
    rows = [sorted(part, key=lambda step: step.worth) for part in parts]
    # 3. A common key across the parts: the worth, or where `separate` the share of its part that is gone over the share it may lose.
    keyed: list[tuple[tuple[int, float], Removal]] = []
    for row, give, size in zip(rows, options.removable, sizes, strict=True):
        given = 0
        for step in row:
            given += step.size
            if not options.separate:
                keyed.append(((_BEYOND if given > give * size else _RANKED, step.worth), step))
            else:
                went = given if step.patch is None else step.worth + 1
                keyed.append(((_RANKED if give else _BEYOND, went / size / (give or 1.0)), step))
    # 4. Patches that have to bear their share of the reduction go to the front.
    first = {id(step) for step in _patches_first(rows[2], shape, plan, options, budget)}
    keyed = [((_FIRST if id(step) in first else key[0], key[1]), step) for key, step in keyed]
    return [step for _, step in sorted(keyed, key=lambda pair: pair[0])]


def _patch_worths(worths: Sequence[UnitWorths], options: RemovalOptions) -> Tensor:
    """(L, P); where `separate`, the patches' ranks."""
    patches = [own.patch_P for own in worths if own.patch_P is not None]
    patch_LP = torch.stack(patches)
    if options.separate:
        # ViT-Slim thresholds the masks themselves and nests afterwards: ranks make the threshold a count, as int((1 - b) n) is.
        patch_LP = patch_LP.flatten().argsort(stable=True).argsort().view(patch_LP.shape).to(patch_LP.dtype)
    return patch_LP


_FIRST, _RANKED, _BEYOND = range(3)
"""Classes of the ranking: patches up to `patch_share`, what is removable, and what goes only where nothing else is left."""


def _patches_first(row: list[Removal], shape: ViTShape, plan: Plan, options: RemovalOptions, budget: int) -> list[Removal]:
    """The first patch removals, until they save `patch_share` of the multiply-accumulates to save."""
    to_save = options.patch_share * (predict(shape, plan).total - budget)
    costs = [unit_costs(own, block)[2] for own, block in zip(shape.blocks, plan.blocks, strict=True)]
    first, saved = [], 0.0
    for step in row:
        if saved >= to_save:
            break
        saved += costs[step.block]
        first.append(step)
    return first
