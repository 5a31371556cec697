"""From ViT-Slim's trained masks (arXiv 2201.00814) to a ranking of everything that may be removed, the least valuable first.

`rank_removals` makes the ranking, `unit_removal.budget_pruning.prune_to_budget` decides how much of it a budget takes. Two rules order it.

`fall` (ours): one ranking over attention, MLP and patches. A mask under the l1 pull w falls the less, the more the task depends on it.
At rest it is at 1 - w / h for a curvature h of the loss; on the way there, under Adam, it moves by w over the root mean square of the
task's gradient. In both cases w / fall measures how much the unit matters. Units are compared by that over cost^cost_power: with a
power of 1/2 this is the order of loss over cost, because the loss is quadratic in the mask. Units that are removed together count as
the root of their mean square.

`value` (the paper): attention, MLP and patches have a ranking each, by signed mask value, across all layers. Of n units
in rising order the first int((1 - b) n) are removed. Ours is that the three b fall together until the budget is met: 1 - b = t times
the part's share in `RankingOptions.removable`.

Shapes: H heads, K head width, F hidden units, P patches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from autoslim.core.plan import Plan
from autoslim.core.shape import ViTShape
from autoslim.methods.unit_removal.budget_pruning import Removal
from autoslim.methods.unit_removal.ranking import RemovalOptions, UnitWorths, order_removals, unit_costs
from autoslim.methods.vit_slim.mask_search import Masks

RULES = ("fall", "value")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankingOptions:
    """How units are ranked. `l1` are Eq. 1's weights (w1, w2, w3) of the mask search; the rest is as in `RemovalOptions`.

    `removable` are the shares of attention, MLP and patches that may be removed: under `fall` at most that share of the part, under
    `value` shares in this proportion.
    """

    rule: str
    l1: tuple[float, float, float]
    cost_power: float
    width_multiple: int
    whole: str
    nesting: str
    removable: tuple[float, float, float]
    patch_share: float

    @property
    def removal(self) -> RemovalOptions:
        return RemovalOptions(
            separate=self.rule == "value",
            width_multiple=self.width_multiple,
            whole=self.whole,
            nesting=self.nesting,
            removable=self.removable,
            patch_share=self.patch_share,
        )


_LEAST_FALL = 1e-3
"""Keeps the worth of the highest mask finite; masks start at 1, so this is a thousandth of their range."""


def scores(masks: Sequence[Masks], shape: ViTShape, plan: Plan, options: RankingOptions) -> list[UnitWorths]:
    """Every unit's worth: w / fall over cost^cost_power, or under `value` the mask itself.

    `plan` gives the tokens that units are priced at. A patch's fall is measured before its tanh.
    """
    if options.rule == "value":
        return [UnitWorths(head_HK=mask.head_HK, hidden_F=mask.hidden_F, patch_P=mask.patch_P) for mask in masks]
    # The fall counts from the highest mask, not from 1, because a mask may also rise; so it is never negative. Patches start elsewhere and
    # have a highest of their own; their tanh is left out because Adam normalises its slope away.
    top = max(float(zeta.max()) for mask in masks for zeta in (mask.head_HK, mask.hidden_F))
    patch_top = max((float(mask.patch_P.max()) for mask in masks if mask.patch_P is not None), default=0.0)
    scored = []
    for mask, own, block in zip(masks, shape.blocks, plan.blocks, strict=True):
        w1, w2, w3 = (w / cost**options.cost_power for w, cost in zip(options.l1, unit_costs(own, block), strict=True))
        scored.append(
            UnitWorths(
                head_HK=w1 / (top - mask.head_HK + _LEAST_FALL),
                hidden_F=w2 / (top - mask.hidden_F + _LEAST_FALL),
                patch_P=None if mask.patch_P is None else w3 / (patch_top - mask.patch_P + _LEAST_FALL),
            )
        )
    return scored


def rank_removals(
    masks: Sequence[Masks], shape: ViTShape, plan: Plan, priced: Plan, options: RankingOptions, budget: int
) -> list[Removal]:
    """Everything that may be removed from `plan`, in order; units cost what they cost in the plan `priced`.

    `budget` is in multiply-accumulates; only `patch_share` depends on it.
    """
    return order_removals(scores(masks, shape, priced, options), shape, plan, options.removal, budget)
