"""From ViT-Slim's trained masks to the parts that a budget keeps.

Everything that may go is put into one row, the least valuable first (`removals`); the budget decides where the row is cut, by the exact
count of FLOPs (`cut_to_budget`). What is left of the budget then gives back single parts from behind the cut.

Two rules order the row.

`fall` (ours): one ranking over attention, MLP and patches. A mask under the l1 pull w falls the slower, the more the task holds it:
at rest it stands at 1 - w / h for a curvature h, and on its way there, under Adam, it moves by w over the root mean square of the
task's gradient. Either way w / fall tells how much the unit matters. Units are compared by that over cost^cost_power; with a power of
1/2 this is the order of loss over cost, the loss being quadratic. Units that go together count the root of their mean square.

`value` (the paper's): attention, MLP and patches have a ranking each, by signed value, across all layers; of n units sorted by rising
value the first int((1 - b) n) go. The three b fall together until the budget is met: 1 - b = t x what the part is to give.

Heads of one layer keep equally many dimensions, each its own (ours; the paper masks them raggedly, which no dense layer can do), so
that a unit of attention is the next dimension of all heads of a layer, or a whole head.

Shapes: L layers, H heads, K head width, F hidden units, P patches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from autoslim.core.plan import BlockPlan, Plan
from autoslim.core.shape import ViTShape
from autoslim.cost.constraint_check import Constraints
from autoslim.cost.flops import block_matmuls, block_norms, predict
from autoslim.errors import InfeasibleError
from autoslim.methods.vit_slim.mask_search import Masks

PARTS = ("attention", "mlp", "patches")
RULES = ("fall", "value")
NESTINGS = ("down", "up")
"""`down`, the paper's text: a patch that goes in one layer is gone in all deeper ones. `up`, its code: one that a layer needs is kept in
all shallower ones. Both leave each layer's patches a subset of those of the layer before; `up` keeps more."""

WHOLES = ("none", "heads", "sublayers")
"""What may go whole: nothing (each layer keeps every head and one unit), heads, or heads and sub-layers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Terms:
    """How units are ranked. `l1` are the weights (w1, w2, w3) that pulled at the masks.

    `gives` says how much of attention, MLP and patches may go: under `fall` at most that share of the part, under `value` shares in
    this proportion. More goes only where the budget cannot be met otherwise. Under `fall` patches go first until they have saved
    `patch_share` of what must be saved, as priced one by one in the dense model; from there on they compete with the widths.
    """

    rule: str
    l1: tuple[float, float, float]
    cost_power: float
    width_multiple: int
    whole: str
    nesting: str
    gives: tuple[float, float, float]
    patch_share: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """What a block keeps: heads by index, dimensions a head, hidden units, and patches by index."""

    heads: tuple[int, ...]
    head_width: int
    hidden: int
    patches: frozenset[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Removal:
    """One step of the row: a block's `before` becomes `after` (fields of `Layer`), or it loses `patch`.

    Steps of one `chain` only make sense in their order. `size` counts mask values.
    """

    block: int
    chain: tuple[str, int]
    worth: float
    size: int
    before: dict[str, Any] = dataclasses.field(default_factory=dict)
    after: dict[str, Any] = dataclasses.field(default_factory=dict)
    patch: int | None = None


_LEAST_FALL = 1e-3
"""Keeps the worth of the highest mask finite."""


def scores(masks: Sequence[Masks], shape: ViTShape, plan: Plan, terms: Terms) -> list[Masks]:
    """What every unit is worth keeping, in the place of its mask: w / fall over cost^cost_power, or under `value` the mask itself.

    The fall is counted from the highest mask of any attention or MLP, that of a patch from the highest patch, before its tanh, whose
    slope Adam takes out.
    """
    if terms.rule == "value":
        return list(masks)
    top = max(float(zeta.max()) for mask in masks for zeta in (mask.head_HK, mask.hidden_F))
    patch_top = max(float(mask.patch_P.max()) for mask in masks)
    scored = []
    for mask, block in zip(masks, plan.blocks, strict=True):
        w1, w2, w3 = (w / cost**terms.cost_power for w, cost in zip(terms.l1, unit_costs(shape, block), strict=True))
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
    per_dim = 2 * shape.dim * (block.tokens_q + block.tokens_kv) + 2 * block.tokens_q * block.tokens_kv
    fewer = _with_tokens(block, block.tokens_kv - 1)
    patch = block_matmuls(shape, block) + block_norms(shape, block) - block_matmuls(shape, fewer) - block_norms(shape, fewer)
    # A block without any sub-layer costs nothing.
    return per_dim, 2 * shape.dim * block.tokens_mlp, max(patch, 1)


def width_before(width: int, multiple: int) -> int:
    """The next smaller width that is allowed: a multiple, or 0."""
    return (width - 1) // multiple * multiple


def attention_chain(worth_HK: Tensor, block: int, terms: Terms) -> list[Removal]:
    """Takes whichever is worth less: the last dimensions of all heads that are left, or the weakest head whole."""
    worth_HK = worth_HK.sort(dim=1, descending=True).values
    heads, width = tuple(range(len(worth_HK))), worth_HK.shape[1]
    chain: list[Removal] = []
    while heads:
        options = [(heads, narrower)] if (narrower := width_before(width, terms.width_multiple)) else []
        if len(heads) > 1 and terms.whole != "none":
            weakest = min(heads, key=lambda head: _pooled(worth_HK[head, :width], terms))
            options.append((tuple(head for head in heads if head != weakest), width))
        if not options and terms.whole == "sublayers":
            options.append(((), 0))
        if not options:
            break
        worth, left, narrower = min(
            (_pooled(_lost(worth_HK, heads, width, left, narrower), terms), left, narrower) for left, narrower in options
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
    """What goes with the heads that go, and with the last dimensions of those that stay."""
    gone = [head for head in heads if head not in left]
    return torch.cat((worth_HK[gone, :width].flatten(), worth_HK[list(left), narrower:width].flatten()))


def mlp_chain(worth_F: Tensor, block: int, terms: Terms) -> list[Removal]:
    """Hidden units in rising order of worth, as many at once as widths are rounded to."""
    worth_F = worth_F.sort(descending=True).values
    chain: list[Removal] = []
    width = len(worth_F)
    while width:
        narrower = width_before(width, terms.width_multiple)
        if not narrower and terms.whole != "sublayers":
            break
        chain.append(
            Removal(
                block=block,
                chain=("mlp", block),
                worth=_pooled(worth_F[narrower:width], terms),
                size=width - narrower,
                before={"hidden": width},
                after={"hidden": narrower},
            )
        )
        width = narrower
    return _rising(chain)


def nested(worth_LP: Tensor, nesting: str) -> Tensor:
    """The worth by which a patch's layers go, so that any threshold leaves nested sets: never rising from layer to layer."""
    if nesting == "down":
        return worth_LP.cummin(dim=0).values
    return worth_LP.flip(0).cummax(dim=0).values.flip(0)


def patch_chains(worth_LP: Tensor) -> list[Removal]:
    """Every patch from the deepest layer up; `worth_LP` is nested. The patch that is worth most at the end stays everywhere."""
    layers, patches = worth_LP.shape
    best = int(worth_LP[-1].argmax())
    return [
        Removal(block=block, chain=("patch", patch), worth=float(worth_LP[block, patch]), size=1, patch=patch)
        for patch in range(patches)
        if patch != best
        for block in reversed(range(layers))
    ]


def _pooled(worth: Tensor, terms: Terms) -> float:
    return float(worth.mean() if terms.rule == "value" else worth.square().mean().sqrt())


def _rising(chain: list[Removal]) -> list[Removal]:
    """A step that waits for a better one is worth as much as that."""
    risen, highest = [], float("-inf")
    for removal in chain:
        highest = max(highest, removal.worth)
        risen.append(dataclasses.replace(removal, worth=highest))
    return risen


def removals(masks: Sequence[Masks], shape: ViTShape, plan: Plan, priced: Plan, terms: Terms, budget: int) -> list[Removal]:
    """Everything that may go from `plan`, in the order in which it goes; `priced` says what the units are taken to cost."""
    scored = scores(masks, shape, priced, terms)
    patch_LP = torch.stack([own.patch_P for own in scored])
    if terms.rule == "value":
        # The paper's threshold is one on the masks as they are, here their rank; nesting comes after it.
        patch_LP = patch_LP.flatten().argsort(stable=True).argsort().view(patch_LP.shape).to(patch_LP.dtype)
    parts = (
        [step for block, own in enumerate(scored) for step in attention_chain(own.head_HK, block, terms)],
        [step for block, own in enumerate(scored) for step in mlp_chain(own.hidden_F, block, terms)],
        patch_chains(nested(patch_LP, terms.nesting)) if terms.gives[2] else [],
    )
    sizes = (shape.heads * shape.head_width, shape.hidden, shape.patches)
    # Rising sorts are stable, so that the steps of a chain stay in their order.
    rows = [sorted(part, key=lambda step: step.worth) for part in parts]
    keyed: list[tuple[tuple[int, float], Removal]] = []
    for row, give, size in zip(rows, terms.gives, sizes, strict=True):
        given = 0
        for step in row:
            given += step.size
            if terms.rule == "fall":
                keyed.append(((_BEYOND if given > give * size * shape.depth else _RANKED, step.worth), step))
            else:
                went = given if step.patch is None else step.worth + 1
                keyed.append(((_RANKED if give else _BEYOND, went / (size * shape.depth) / (give or 1.0)), step))
    first = {id(step) for step in _patches_first(rows[2], shape, plan, terms, budget)}
    keyed = [((_FIRST if id(step) in first else key[0], key[1]), step) for key, step in keyed]
    return [step for _, step in sorted(keyed, key=lambda pair: pair[0])]


_FIRST, _RANKED, _BEYOND = range(3)


def _patches_first(row: list[Removal], shape: ViTShape, plan: Plan, terms: Terms, budget: int) -> list[Removal]:
    """The steps with which patches bear their share of what must be saved."""
    to_save = terms.patch_share * (predict(shape, plan).total - budget)
    costs = [unit_costs(shape, block)[2] for block in plan.blocks]
    first, saved = [], 0.0
    for step in row:
        if saved >= to_save:
            break
        saved += costs[step.block]
        first.append(step)
    return first


def cut_to_budget(
    shape: ViTShape, plan: Plan, row: Sequence[Removal], budget: int, constraints: Constraints | None = None
) -> tuple[list[Layer], Plan]:
    """As few steps of the row as the budget and the ceiling allow; then whatever still fits comes back, the last to go first, each chain
    in its order.

    Raises:
        InfeasibleError: when nothing but what must stay is above one of them.
    """
    constraints = Constraints() if constraints is None else constraints

    def fits(layers: Sequence[Layer]) -> bool:
        made = plan_of(plan, layers, shape)
        return predict(shape, made).total <= budget and constraints.fits(shape, made)

    dense = _dense_layers(shape)
    low, high = 0, len(row)
    if fits(dense):
        return dense, plan_of(plan, dense, shape)
    narrowest = plan_of(plan, _applied(dense, row), shape)
    least = predict(shape, narrowest).total
    if least > budget:
        raise InfeasibleError(f"ViT-Slim: the narrowest model has {least} multiply-accumulates, above the budget of {budget}")
    if excess := constraints.excess(shape, narrowest):
        raise InfeasibleError(f"ViT-Slim: the narrowest model takes {excess}")
    while high - low > 1:
        middle = (low + high) // 2
        if fits(_applied(dense, row[:middle])):
            high = middle
        else:
            low = middle
    layers = _applied(dense, row[:high])
    closed: set[tuple[str, int]] = set()
    for step in reversed(row[:high]):
        if step.chain in closed:
            continue
        back = [*layers]
        back[step.block] = _undone(layers[step.block], step)
        if fits(back):
            layers = back
        else:
            closed.add(step.chain)
    return layers, plan_of(plan, layers, shape)


def plan_of(plan: Plan, layers: Sequence[Layer], shape: ViTShape) -> Plan:
    """What the layers compute; a part of which `plan` computes fewer tokens already stays as it is."""
    blocks = tuple(
        _with_tokens(
            block.replace(heads=len(layer.heads), head_width=layer.head_width, hidden=layer.hidden),
            shape.prefix_tokens + len(layer.patches),
        )
        for block, layer in zip(plan.blocks, layers, strict=True)
    )
    return plan.replace(blocks=blocks)


def _dense_layers(shape: ViTShape) -> list[Layer]:
    heads, patches = tuple(range(shape.heads)), frozenset(range(shape.patches))
    return [Layer(heads=heads, head_width=shape.head_width, hidden=shape.hidden, patches=patches)] * shape.depth


def _applied(dense: Sequence[Layer], steps: Sequence[Removal]) -> list[Layer]:
    """All steps at once: of a chain of widths the last one decides."""
    after: list[dict[str, Any]] = [{} for _ in dense]
    gone: list[set[int]] = [set() for _ in dense]
    for step in steps:
        after[step.block] |= step.after
        if step.patch is not None:
            gone[step.block].add(step.patch)
    return [
        dataclasses.replace(layer, **changes, patches=layer.patches - lost)
        for layer, changes, lost in zip(dense, after, gone, strict=True)
    ]


def _undone(layer: Layer, step: Removal) -> Layer:
    if step.patch is not None:
        return dataclasses.replace(layer, patches=layer.patches | {step.patch})
    return dataclasses.replace(layer, **step.before)


def _with_tokens(block: BlockPlan, tokens: int) -> BlockPlan:
    return block.replace(tokens_kv=tokens, tokens_q=min(tokens, block.tokens_q), tokens_mlp=min(tokens, block.tokens_mlp))
