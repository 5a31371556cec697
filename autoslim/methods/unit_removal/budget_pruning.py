"""As few removals, in the order of a ranking, as bring the plan under the budget.

Shapes: L layers, P patches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from autoslim.core import activity
from autoslim.core.plan import BlockPlan, Plan
from autoslim.core.shape import ViTShape
from autoslim.cost.constraint_check import Constraints
from autoslim.cost.flops import predict
from autoslim.errors import InfeasibleError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """What a block keeps: heads by index, dimensions per head, hidden units, and patches by index."""

    heads: tuple[int, ...]
    head_width: int
    hidden: int
    patches: frozenset[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Removal:
    """One step of the ranking: in `block` the fields `before` of its `Layer` become `after`, or it loses `patch`.

    The steps of one `chain` build on each other and are only valid in their order. `worth` ranks the step among those of other chains,
    `size` is the number of mask values that it removes.
    """

    block: int
    chain: tuple[str, int]
    worth: float
    size: int
    before: dict[str, Any] = dataclasses.field(default_factory=dict)
    after: dict[str, Any] = dataclasses.field(default_factory=dict)
    patch: int | None = None


Fits = Callable[[Sequence[Layer]], bool]
"""Whether the model with these layers keeps to the budget and to all other limits."""


def prune_to_budget(
    shape: ViTShape, plan: Plan, ranking: Sequence[Removal], budget: int, constraints: Constraints | None = None
) -> tuple[list[Layer], Plan]:
    """The layers that stay, and their plan, after as few steps of `ranking` as the budget and the constraints allow.

    What then still fits is restored, the last removal first.

    Raises:
        InfeasibleError: when the model that has lost all of `ranking` is still above one of the limits.
    """
    constraints = Constraints() if constraints is None else constraints

    def fits(layers: Sequence[Layer]) -> bool:
        # Asked once for each unit of the model that is restored or not.
        activity.mark()
        made = plan_of(plan, layers, shape)
        # Closed forms equal the counts of the finished model, so that no model is built to try a number of removals.
        return predict(shape, made).total <= budget and constraints.fits(shape, made)

    dense = _dense_layers(shape)
    if fits(dense):
        return dense, plan_of(plan, dense, shape)
    # The bisection needs an end that fits: the model that has lost the whole ranking.
    _check_feasible(shape, plan_of(plan, _applied(dense, ranking), shape), budget, constraints)
    removed = ranking[: _fewest_removals(dense, ranking, fits)]
    layers = _restored(_applied(dense, removed), removed, fits)
    return layers, plan_of(plan, layers, shape)


def _check_feasible(shape: ViTShape, narrowest: Plan, budget: int, constraints: Constraints) -> None:
    least = predict(shape, narrowest).total
    if least > budget:
        raise InfeasibleError(f"the narrowest model has {least} multiply-accumulates, above the budget of {budget}")
    if excess := constraints.excess(shape, narrowest):
        raise InfeasibleError(f"the narrowest model takes {excess}")


def _fewest_removals(dense: Sequence[Layer], ranking: Sequence[Removal], fits: Fits) -> int:
    """The least number of steps from the front of `ranking` after which the model fits; all of them fit, none does not."""
    # Every step lowers the cost or leaves it, so that "fits" changes once along the ranking and can be bisected.
    low, high = 0, len(ranking)
    while high - low > 1:
        middle = (low + high) // 2
        if fits(_applied(dense, ranking[:middle])):
            high = middle
        else:
            low = middle
    return high


def _restored(layers: list[Layer], removed: Sequence[Removal], fits: Fits) -> list[Layer]:
    """`layers` with every removal undone that still fits, from the most valuable down."""
    # The last step may have saved more than was needed. What it left of the budget is often enough for a cheaper unit before it.
    closed: set[tuple[str, int]] = set()
    for step in reversed(removed):
        # A step builds on the earlier ones of its chain: once one stays removed, so do all before it.
        if step.chain in closed:
            continue
        trial = [*layers]
        trial[step.block] = _undo(layers[step.block], step)
        if fits(trial):
            layers = trial
        else:
            closed.add(step.chain)
    return layers


def plan_of(plan: Plan, layers: Sequence[Layer], shape: ViTShape) -> Plan:
    """The plan of `layers`; a part of which `plan` computes fewer tokens already, such as a class query, stays as it is."""
    blocks = tuple(
        with_tokens(
            block.replace(heads=len(layer.heads), head_width=layer.head_width, hidden=layer.hidden),
            shape.prefix_tokens + len(layer.patches),
        )
        for block, layer in zip(plan.blocks, layers, strict=True)
    )
    return plan.replace(blocks=blocks)


def _dense_layers(shape: ViTShape) -> list[Layer]:
    return [
        Layer(
            heads=tuple(range(own.heads)),
            head_width=own.head_width,
            hidden=own.hidden,
            patches=frozenset(range(own.tokens - shape.prefix_tokens)),
        )
        for own in shape.blocks
    ]


def _applied(dense: Sequence[Layer], steps: Sequence[Removal]) -> list[Layer]:
    """`dense` after all `steps` at once."""
    after: list[dict[str, Any]] = [{} for _ in dense]
    gone: list[set[int]] = [set() for _ in dense]
    for step in steps:
        # Steps come in order, so that of a chain of widths the last one decides.
        after[step.block] |= step.after
        if step.patch is not None:
            gone[step.block].add(step.patch)
    return [
        dataclasses.replace(layer, **changes, patches=layer.patches - lost)
        for layer, changes, lost in zip(dense, after, gone, strict=True)
    ]


def _undo(layer: Layer, step: Removal) -> Layer:
    if step.patch is not None:
        return dataclasses.replace(layer, patches=layer.patches | {step.patch})
    # Whole fields are set back, which is right only while no later step of the chain is in force.
    return dataclasses.replace(layer, **step.before)


def with_tokens(block: BlockPlan, tokens: int) -> BlockPlan:
    """`block` with `tokens` tokens in every part that does not compute fewer already."""
    return block.replace(tokens_kv=tokens, tokens_q=min(tokens, block.tokens_q), tokens_mlp=min(tokens, block.tokens_mlp))
