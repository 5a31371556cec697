"""Pruning widths by magnitude, and by a Taylor expansion of the loss: pruned once, then fine-tuned.

A unit is a hidden unit of an MLP, or one dimension of a head (its rows of query, key and value and its column of the projection).

- `l2_width`: a unit's score is the l2 norm of its weights (Li et al., arXiv 1608.08710), those on both sides of it multiplied: fc1 times
  fc2; query times key, plus value times projection. The products are ours, a little better here than the root of the sum of squares.
- `taylor_width`: how much the loss is expected to change when the unit is multiplied by zero, E[(d loss / d gate)^2] of a gate that is 1
  (Molchanov et al., CVPR 2019, arXiv 1906.10771), over 1,024 training images, image by image. Labels are drawn from the dense model's
  own prediction, which makes it the Fisher information. The pass costs a share of the epochs, once for all budgets.

Units of all layers are compared in one of three ways (`compare`): by `score` for the money, over cost^cost_power; by score over the
`layer`'s mean score; or by `rank` within the layer, so that every layer loses the same share. As in our ViT-Slim the heads of a layer
keep equally many dimensions, each head its own, and every layer keeps one of each. `refit` is ours and off: these baselines are pruned as
they are in the literature.

Shapes: B batch, N tokens, D width, H heads, K head width, F hidden units.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Generator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoslim.core.plan import BlockPlan, Plan
from autoslim.core.recipe import Knobs
from autoslim.core.result import EpochReport, Phase
from autoslim.core.shape import ViTShape
from autoslim.cost.flops import predict
from autoslim.errors import UnsupportedModelError
from autoslim.methods.base import SlimmedModel, StepContext, logits_of
from autoslim.methods.knob import Knob, Ranges
from autoslim.methods.layers.narrow import empty_attention, empty_mlp, narrow_attention, narrow_mlp
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.methods.trainer import SharedTrainer, Tensors
from autoslim.methods.unit_removal.least_squares import measure_readers, refit_reader
from baselines.dense import PruneThenFinetune

SCORE_IMAGES = 1024
COMPARE = ("score", "layer", "rank")
_NARROWEST = 0.01

Scores = list[tuple[Tensor, Tensor]]
"""Per block the scores of its heads' dimensions (H, K) and of its hidden units (F,)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unit:
    block: int
    part: str
    score: float


class WidthPruning(PruneThenFinetune):
    """Knob `keep`, the share of every width, is solved onto the budget; the ranking says where the widths really go."""

    def check(self, shape: ViTShape) -> None:
        if shape.qk_norm:
            raise UnsupportedModelError("attn.q_norm: heads whose queries and keys are normalised cannot be narrowed")

    @abc.abstractmethod
    def scores(self, model: nn.Module, context: StepContext) -> Scores:
        """From what `attach` has left in the model."""

    def expect(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> Plan:
        def share(width: int) -> int:
            return max(1, int(width * knobs["keep"]))

        blocks = (b.replace(head_width=share(b.head_width), hidden=share(b.hidden)) for b in plan.blocks)
        return plan.replace(blocks=tuple(blocks))

    def attach(self, model: nn.Module, context: StepContext, images_B3HW: Tensor) -> nn.Module:
        if context.knobs["refit"]:
            measure_readers(model, images_B3HW)
        return super().attach(model, context, images_B3HW)

    def prune(self, student: nn.Module, context: StepContext) -> SlimmedModel:
        scores = self.scores(student, context)
        plan = widths_within(context.shape, context.plan, scores, context.knobs, context.budget)
        for module, block, (heads_HK, hidden_F) in zip(blocks_of(student), plan.blocks, scores, strict=True):
            prune_block(module, block, heads_HK, hidden_F)
        return SlimmedModel(model=student.requires_grad_(True), plan=plan, knobs=context.knobs)

    def build(self, model: nn.Module, shape: ViTShape, plan: Plan, knobs: Knobs) -> nn.Module:
        for module, block in zip(blocks_of(model), plan.blocks, strict=True):
            timm_block: Any = module
            timm_block.attn = empty_attention(timm_block.attn, block.head_width)
            timm_block.mlp = empty_mlp(timm_block.mlp, block.hidden)
        return model


def widths_within(shape: ViTShape, plan: Plan, scores: Scores, knobs: Knobs, budget: int) -> Plan:
    """Takes units in falling order of their score for the money while they fit; a layer's first ones are always in."""
    counts = [{"attention": 1, "mlp": 1} for _ in plan.blocks]
    costs = [_costs(shape, block) for block in plan.blocks]
    spent = predict(shape, _narrowed(plan, counts)).total
    closed: set[tuple[int, str]] = set()
    for unit in ranking(scores, costs, knobs["cost_power"], knobs["compare"]):
        cost = costs[unit.block][unit.part]
        if (unit.block, unit.part) in closed:
            continue
        if spent + cost > budget:
            closed.add((unit.block, unit.part))
            continue
        counts[unit.block][unit.part] += 1
        spent += cost
    return _narrowed(plan, counts)


def ranking(scores: Scores, costs: list[dict[str, int]], cost_power: float, compare: str) -> list[Unit]:
    """Every layer's units but its best, all layers together, best first. A head dimension stands for the j-th best of every head: the
    sum of their scores, as its cost is that of all heads.
    """
    units = []
    for block, (heads_HK, hidden_F) in enumerate(scores):
        dims_K = heads_HK.sort(dim=1, descending=True).values.sum(dim=0)
        for part, values in (("attention", dims_K), ("mlp", hidden_F)):
            values = values.sort(descending=True).values
            if compare == "score":
                worth = values / costs[block][part] ** cost_power
            elif compare == "layer":
                worth = values / values.mean()
            else:
                worth = torch.linspace(1, 0, len(values))
            units += [Unit(block=block, part=part, score=score) for score in worth.tolist()[1:]]
    # Stable, so that within a layer the order stays a falling one.
    return sorted(units, key=lambda unit: -unit.score)


def _costs(shape: ViTShape, block: BlockPlan) -> dict[str, int]:
    """Multiply-accumulates of one dimension in every head, and of one hidden unit."""
    per_dim = 2 * shape.dim * (block.tokens_q + block.tokens_kv) + 2 * block.tokens_q * block.tokens_kv
    return {"attention": block.heads * per_dim, "mlp": 2 * shape.dim * block.tokens_mlp}


def _narrowed(plan: Plan, counts: list[dict[str, int]]) -> Plan:
    blocks = (b.replace(head_width=c["attention"], hidden=c["mlp"]) for b, c in zip(plan.blocks, counts, strict=True))
    return plan.replace(blocks=tuple(blocks))


def prune_block(block: Any, plan: BlockPlan, heads_HK: Tensor, hidden_F: Tensor) -> None:
    kept_HK = heads_HK.sort(dim=1, descending=True, stable=True).indices[:, : plan.head_width].sort(dim=1).values
    kept_F = hidden_F.sort(descending=True, stable=True).indices[: plan.hidden].sort().values
    attention, mlp = block.attn, block.mlp
    block.attn = narrow_attention(attention, kept_HK, torch.ones_like(kept_HK, dtype=attention.qkv.weight.dtype))
    block.mlp = narrow_mlp(mlp, kept_F, torch.ones_like(kept_F, dtype=mlp.fc1.weight.dtype))
    rows_HK = kept_HK + attention.head_dim * torch.arange(attention.num_heads, device=kept_HK.device)[:, None]
    refit_reader(block.attn.proj, attention.proj, rows_HK.flatten())
    refit_reader(block.mlp.fc2, mlp.fc2, kept_F)


def _ranges(**own: Knob) -> Ranges:
    return {
        "keep": Knob(kind="float", help="share of all widths kept", default=0.6, low=_NARROWEST, high=1.0, cost_sign=1),
        "cost_power": Knob(kind="float", help="scores are divided by cost to this power", default=1.0, low=0.0, high=1.0),
        "refit": Knob(
            kind="choice", help="as our ViT-Slim does, to see what that is worth", default=False, choices=(False, True)
        ),
        **own,
    }


class L2Width(WidthPruning):
    name = "l2_width"
    ranges: ClassVar[Ranges] = _ranges(
        compare=Knob(kind="choice", help="how units of different layers are compared", default="layer", choices=COMPARE)
    )

    def scores(self, model: nn.Module, context: StepContext) -> Scores:
        return [_norms(block) for block in blocks_of(model)]


def _norms(block: Any) -> tuple[Tensor, Tensor]:
    """A unit's output is a product of what goes in and what comes out, so that the norms of both sides are multiplied."""
    attention, mlp = block.attn, block.mlp
    qkv_3HK = attention.qkv.weight.detach().reshape(3, attention.num_heads, attention.head_dim, -1).norm(dim=3)
    proj_HK = attention.proj.weight.detach().norm(dim=0).reshape(attention.num_heads, attention.head_dim)
    heads_HK = qkv_3HK[0] * qkv_3HK[1] + qkv_3HK[2] * proj_HK
    return heads_HK, mlp.fc1.weight.detach().norm(dim=1) * mlp.fc2.weight.detach().norm(dim=0)


class TaylorWidth(WidthPruning):
    name = "taylor_width"
    ranges: ClassVar[Ranges] = _ranges(
        compare=Knob(kind="choice", help="how units of different layers are compared", default="score", choices=COMPARE),
        score_share=Knob(kind="float", help="share of the epochs that the scores are booked at", default=0.04, low=0.0, high=0.5),
    )

    def shared_settings(self, shape: ViTShape, knobs: Knobs) -> Knobs | None:
        return {"score_share": knobs["score_share"]}

    def shared_share(self, settings: Knobs) -> float:
        return float(settings["score_share"])

    def prepare(self, shared_trainer: SharedTrainer, settings: Knobs) -> Generator[EpochReport, None, Tensors]:
        student = shared_trainer.student().requires_grad_(False)
        found = taylor_scores(student, shared_trainer.images(SCORE_IMAGES))
        yield EpochReport(epoch=settings["score_share"] * shared_trainer.training.epochs, phase=Phase.SHARED, metrics={})
        return {
            f"{index}.{part}": score
            for index, pair in enumerate(found)
            for part, score in zip(("attention", "mlp"), pair, strict=True)
        }

    def attach(self, model: nn.Module, context: StepContext, images_B3HW: Tensor) -> nn.Module:
        assert context.shared is not None
        for index, block in enumerate(blocks_of(model)):
            for part in ("attention", "mlp"):
                block.register_buffer(f"taylor_{part}", context.shared[f"{index}.{part}"])
        return super().attach(model, context, images_B3HW)

    def scores(self, model: nn.Module, context: StepContext) -> Scores:
        blocks: list[Any] = blocks_of(model)
        return [(block._buffers.pop("taylor_attention"), block._buffers.pop("taylor_mlp")) for block in blocks]


def taylor_scores(model: nn.Module, batches: Any) -> Scores:
    """Sums over the images of (d loss / d gate)^2; leaves `model` as it was."""
    gates = [(_Gate(block.attn.num_heads, block.attn.head_dim), _Gate(1, block.mlp.fc1.out_features)) for block in _any(model)]
    handles = [handle for block, pair in zip(_any(model), gates, strict=True) for handle in _gate(block, *pair)]
    generator = torch.Generator().manual_seed(0)
    try:
        for images_B3HW in batches:
            logits_BC = logits_of(model(images_B3HW)).float()
            drawn_B = logits_BC.detach().softmax(dim=1).cpu().multinomial(1, generator=generator).squeeze(1).to(logits_BC.device)
            functional.cross_entropy(logits_BC, drawn_B, reduction="sum").backward()  # type: ignore[no-untyped-call]
            for pair in gates:
                for gate in pair:
                    gate.collect()
    finally:
        for handle in handles:
            handle.remove()
    return [(attention.total, mlp.total[0]) for attention, mlp in gates]


def _any(model: nn.Module) -> list[Any]:
    return list(blocks_of(model))


class _Gate:
    """Ones that everything of a unit is multiplied by, an own one for every image: (B, H, K)."""

    def __init__(self, heads: int, width: int) -> None:
        self.total = torch.zeros(heads, width)
        self.gate_BHK: Tensor | None = None

    def of(self, x_BNE: Tensor) -> Tensor:
        """The gates of this pass; made anew by the first part that asks."""
        if self.gate_BHK is None:
            self.gate_BHK = x_BNE.new_ones(len(x_BNE), *self.total.shape).requires_grad_()
        return self.gate_BHK

    def collect(self) -> None:
        assert self.gate_BHK is not None and self.gate_BHK.grad is not None
        self.total = self.total.to(self.gate_BHK.device) + self.gate_BHK.grad.float().square().sum(dim=0)
        self.gate_BHK = None


def _gate(block: Any, attention: _Gate, mlp: _Gate) -> list[Any]:
    """Queries, keys and values of a head dimension share a gate, as they are pruned together."""

    def gate_qkv(module: nn.Module, inputs: Any, output_BNE: Tensor) -> Tensor:
        return output_BNE * attention.of(output_BNE).flatten(1).repeat(1, 3).unsqueeze(1)

    def gate_hidden(module: nn.Module, inputs: Any, output_BNF: Tensor) -> Tensor:
        return output_BNF * mlp.of(output_BNF).flatten(1).unsqueeze(1)

    return [block.attn.qkv.register_forward_hook(gate_qkv), block.mlp.act.register_forward_hook(gate_hidden)]
