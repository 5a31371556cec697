"""ViT-Slim's width part (CVPR 2022, arXiv 2201.00814): l1-trained masks over attention and MLP dimensions, then physical removal.

Eq. 1: loss = task + w1 |zeta_attention|_1 + w2 |zeta_mlp|_1, every weight trained along with the masks, which start at 1. The mask of
a head dimension is shared by query, key and value; that of a hidden unit stands behind the activation.

Ours, and different from the paper and its code: the units are removed, not multiplied by zero; the masks' values are folded into the
weights instead of being rounded to one, so that the cut model computes what the masked one did; one global threshold on how far the
masks have fallen, per l1 weight and times cost^cost_power, replaces the separate budgets of attention and MLP and is solved onto the
FLOPs budget; heads of one layer keep equally many dimensions (each its own), so that the cut layer is a plain timm `Attention`.

Shapes: H heads, K head width, F hidden units.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autoslim.errors import InfeasibleError, UnsupportedModelError
from autoslim.flops.predict import predict
from autoslim.methods.base import Brief, Finished, Lesson, Method, Tensors
from autoslim.methods.knob import Knob, Ranges
from autoslim.methods.trunk import Trunk, blocks_of, install, steps_of
from autoslim.methods.width import empty_attention, empty_mlp, gate_block, narrow_attention, narrow_mlp
from autoslim.plan import BlockPlan, Plan
from autoslim.recipe import Knobs
from autoslim.shape import ViTShape

L1_WEIGHTS = {"paper": (2e-4, 5e-5), "even": (2e-4, 2e-4)}
"""w1 (attention) and w2 (MLP). `paper` is its optimum for DeiT-S over 50 epochs; `even` is ours, for a ranking across both."""

_NARROWEST = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unit:
    """The next dimension of a layer's heads, or its next hidden unit, in falling order of its mask."""

    block: int
    part: str
    score: float


def ranking(
    zetas: list[tuple[Tensor, Tensor]], costs: list[tuple[int, int]], cost_power: float, l1: tuple[float, float] = (1.0, 1.0)
) -> list[Unit]:
    """All units of all layers, best first.

    `zetas` holds a (H, K) and a (F,) mask per block; `costs` the multiply-accumulates of one head dimension (over all heads) and of
    one hidden unit; `l1` the weights w1 and w2 that pulled at them. A head dimension's mask is the mean over the heads of their j-th
    largest, by signed value as in the paper.

    Where the task resists the l1 pull w with a curvature h, a mask comes to rest at 1 - w / h. What a unit is worth is therefore read
    from how far its mask has fallen, w / fall, and divided by cost^cost_power; at 0 and with equal weights this is the paper's
    order by value.
    """
    units = []
    cheapest = min(cost for pair in costs for cost in pair)
    top = max(float(zeta.max()) for pair in zetas for zeta in pair)
    for block, ((zeta_HK, zeta_F), (head_cost, unit_cost)) in enumerate(zip(zetas, costs, strict=True)):
        dims_K = zeta_HK.sort(dim=1, descending=True).values.mean(dim=0)
        hidden_F = zeta_F.sort(descending=True).values
        for part, values, cost, weight in (
            ("attention", dims_K, head_cost / len(zeta_HK), l1[0]),
            ("mlp", hidden_F, unit_cost, l1[1]),
        ):
            price = (cost / cheapest) ** cost_power / (weight / max(l1))
            units += [Unit(block=block, part=part, score=(value - top) * price) for value in values.tolist()]
    # A stable sort keeps the falling order within each layer, so that every prefix of the list is a valid set.
    return sorted(units, key=lambda unit: -unit.score)


def widths_within(shape: ViTShape, plan: Plan, units: list[Unit], budget: int) -> Plan:
    """The plan of the best units that fit: a threshold on the score, then whatever of the rest still fits, in its layer's order.

    Every layer keeps one dimension a head and one hidden unit.

    Raises:
        InfeasibleError: when not even those fit into `budget`.
    """
    counts = [{"attention": 0, "mlp": 0} for _ in plan.blocks]
    best = _narrowed(plan, [{"attention": 1, "mlp": 1} for _ in plan.blocks])
    spent = predict(shape, best).total
    if spent > budget:
        raise InfeasibleError(f"ViT-Slim: the narrowest model has {spent} multiply-accumulates, above the budget of {budget}")
    price = [_unit_costs(shape, block) for block in plan.blocks]
    closed: set[tuple[int, str]] = set()
    for unit in units:
        layer = (unit.block, unit.part)
        if layer in closed:
            continue
        first = counts[unit.block][unit.part] == 0
        cost = 0 if first else price[unit.block][0 if unit.part == "attention" else 1]
        if spent + cost > budget:
            closed.add(layer)
            continue
        counts[unit.block][unit.part] += 1
        spent += cost
    return _narrowed(plan, [{part: max(1, count) for part, count in block.items()} for block in counts])


def _narrowed(plan: Plan, counts: list[dict[str, int]]) -> Plan:
    blocks = (b.replace(head_width=c["attention"], hidden=c["mlp"]) for b, c in zip(plan.blocks, counts, strict=True))
    return plan.replace(blocks=tuple(blocks))


def _unit_costs(shape: ViTShape, block: BlockPlan) -> tuple[int, int]:
    """Multiply-accumulates of one dimension in each of the block's heads, and of one hidden unit."""
    per_dim = 2 * shape.dim * (block.tokens_q + block.tokens_kv) + 2 * block.tokens_q * block.tokens_kv
    return block.heads * per_dim, 2 * shape.dim * block.tokens_mlp


class ViTSlim(Method):
    """Knob `keep`, the share of every width, is solved onto the budget; which dimensions go is the masks' to say."""

    name = "vit_slim"
    paper = "https://arxiv.org/abs/2201.00814"
    ranges: ClassVar[Ranges] = {
        "keep": Knob(kind="float", help="share of all widths kept", default=0.7, low=_NARROWEST, high=1.0, priced=1),
        "l1": Knob(kind="choice", help="l1 weights of attention and MLP masks", default="even", choices=tuple(L1_WEIGHTS)),
        "cost_power": Knob(
            kind="float", help="masks' falls are compared times cost to this power", default=0.5, low=0.0, high=1.0
        ),
        "train_share": Knob(kind="float", help="share of the epochs spent on the mask search", default=0.3, low=0.05, high=0.7),
        "mask_lr": Knob(kind="float", help="masks' learning rate over the recipe's", default=40.0, low=5.0, high=160.0, log=True),
    }

    def check(self, shape: ViTShape) -> None:
        if shape.qk_norm:
            raise UnsupportedModelError("attn.q_norm: ViT-Slim cannot narrow heads whose queries and keys are normalised")

    def repair(self, shape: ViTShape, knobs: Knobs) -> Knobs:
        """`keep` in the middle of the shares that select the same widths, so that recipes with the same widths are the same recipe."""
        full = super().repair(shape, knobs)
        widths = (shape.head_width, shape.hidden)
        if full["keep"] < 1:
            counts = [(int(width * full["keep"]), width) for width in widths]
            low = max(count / width for count, width in counts)
            high = min((count + 1) / width for count, width in counts)
            full["keep"] = (max(low, _NARROWEST) + min(high, 1.0)) / 2
        return full

    def expect(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> Plan:
        """The same share of every layer: FLOPs are linear in the widths, so the real ranking costs as much, wherever it cuts."""

        def share(width: int) -> int:
            return max(1, int(width * knobs["keep"]))

        return plan.replace(
            blocks=tuple(block.replace(head_width=share(block.head_width), hidden=share(block.hidden)) for block in plan.blocks)
        )

    def attach(self, model: nn.Module, brief: Brief, images_B3HW: Tensor) -> nn.Module:
        model.requires_grad_(True)
        for block in blocks_of(model):
            gate_block(block)
        return model

    def learning_rates(self, student: nn.Module, knobs: Knobs) -> dict[str, float]:
        return {"zeta": knobs["mask_lr"]}

    def loss(self, knobs: Knobs, lesson: Lesson) -> Tensors:
        student = lesson.student
        w1, w2 = L1_WEIGHTS[knobs["l1"]]
        attention = torch.stack([zeta.abs().sum() for zeta, _ in _masks(student)]).sum()
        mlp = torch.stack([zeta.abs().sum() for _, zeta in _masks(student)]).sum()
        return {"loss": lesson.task_loss + w1 * attention + w2 * mlp, "l1_attention": attention, "l1_mlp": mlp}

    def finish(self, student: nn.Module, brief: Brief) -> Finished:
        shape, plan, knobs = brief.shape, brief.plan, brief.knobs
        masks = [(a.detach(), m.detach()) for a, m in _masks(student)]
        costs = [_unit_costs(shape, block) for block in plan.blocks]
        finished = widths_within(shape, plan, ranking(masks, costs, knobs["cost_power"], L1_WEIGHTS[knobs["l1"]]), brief.budget)
        for module, block, (zeta_HK, zeta_F) in zip(blocks_of(student), finished.blocks, masks, strict=True):
            _cut(module, block, zeta_HK, zeta_F)
        student.requires_grad_(True)
        return Finished(model=install(student, Trunk(blocks_of(student), steps_of(student))), plan=finished, knobs=knobs)

    def build(self, model: nn.Module, shape: ViTShape, plan: Plan, knobs: Knobs) -> nn.Module:
        for module, block in zip(blocks_of(model), plan.blocks, strict=True):
            timm_block: Any = module
            timm_block.attn = empty_attention(timm_block.attn, block.head_width)
            timm_block.mlp = empty_mlp(timm_block.mlp, block.hidden)
        return install(model, Trunk(blocks_of(model), steps_of(model)))


def _masks(student: nn.Module) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
    for block in blocks_of(student):
        part: Any = block
        yield part.attn.norm.zeta, part.mlp.norm.zeta


def _cut(block: Any, plan: BlockPlan, zeta_HK: Tensor, zeta_F: Tensor) -> None:
    kept_HK = zeta_HK.sort(dim=1, descending=True, stable=True).indices[:, : plan.head_width].sort(dim=1).values
    kept_F = zeta_F.sort(descending=True, stable=True).indices[: plan.hidden].sort().values
    block.attn = narrow_attention(block.attn, kept_HK, zeta_HK.gather(1, kept_HK))
    block.mlp = narrow_mlp(block.mlp, kept_F, zeta_F[kept_F])
