"""Width (ours): head dimensions and hidden units go in the order of the gradient of their gates, and what read them is refitted.

1. A dozen backward passes on the dense model give every unit's worth (`gate_gradients`). They are shared work: one measurement
   serves all budgets and all trials.
2. Units are ranked by worth over cost^cost_power across all layers (`unit_removal.ranking`) and pruned at the budget.
3. What reads the removed units is refitted to the others by least squares (`unit_removal.least_squares`).

Nothing is trained before pruning, so that all epochs are fine-tuning. Masks, and how they are removed, are those of ViT-Slim
(arXiv 2201.00814); it trains them under an l1 penalty, which here the gradient at 1 replaces. The score is that of Molchanov et al. for
gates (arXiv 1906.10771). Ours are comparing units over their costs, pruning to a FLOPs budget, and the refit.

Shapes: H heads, K head width, F hidden units.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs
from autoslim.core.result import EpochReport, Phase
from autoslim.core.shape import BlockShape, ViTShape
from autoslim.methods.base import Method, SlimmedModel, StepContext, freeze
from autoslim.methods.knob import Knob, Ranges
from autoslim.methods.layers.backbone import install
from autoslim.methods.layers.sublayer import check_widths
from autoslim.methods.layers.token_trunk import Trunk, blocks_of
from autoslim.methods.trainer import DistillationBatch, SharedTrainer, Tensors
from autoslim.methods.unit_removal.block_pruning import check_first, empty_widths, prune_widths
from autoslim.methods.unit_removal.budget_pruning import prune_to_budget
from autoslim.methods.unit_removal.kept_share import NARROWEST, KeptShare, canonical_share
from autoslim.methods.unit_removal.least_squares import measure_readers
from autoslim.methods.unit_removal.ranking import WHOLES, RemovalOptions, UnitWorths, head_multiple, order_removals, unit_costs
from autoslim.methods.width.gate_gradients import gradient_rms

PASSES = 12
"""Backward passes, as many as the root mean square needs to settle: four times as many change nothing (`docs/methods/width.md`)."""

PASS_IMAGES = 64
"""Images of one pass. It does not follow the batch size, so that the ranking is the same in every search of the model and the data."""

_REASON = "its units are measured on the dense model"


class Width(Method):
    """The solver sets the knob `keep`, the share kept of every width; the gates' gradients decide which units stay."""

    name = "width"
    paper = "https://arxiv.org/abs/1906.10771"
    ranges: ClassVar[Ranges] = {
        "keep": Knob(kind="float", help="share of all widths kept", default=0.7, low=NARROWEST, high=1.0, cost_sign=1),
        "cost_power": Knob(kind="float", help="worth is compared over cost to this power", default=0.5, low=0.0, high=1.0),
        "refit": Knob(
            kind="choice", help="refit what reads the units that are left, by least squares", default=True, choices=(False, True)
        ),
        "width_multiple": Knob(kind="choice", help="widths are multiples of this", default=1, choices=(1, 8, 16)),
        "whole": Knob(kind="choice", help="what may go whole", default="none", choices=WHOLES),
    }

    def check(self, shape: ViTShape) -> None:
        check_widths(self.name, shape)

    def repair(self, shape: ViTShape, knobs: Knobs) -> Knobs:
        """Moves `keep` to the middle of the shares that give the same plan, so that equal plans are equal recipes."""
        full = super().repair(shape, knobs)
        full["keep"] = canonical_share([part for own in shape.kinds for part in _parts(own, full)], full["keep"])
        return full

    def expect(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> Plan:
        """The same share of every layer, a stand-in for the ranking; `prune` fills the budget with that.

        Raises:
            UnsupportedModelError: when an earlier step has pruned the model.
        """
        check_first(shape, plan, self.name, _REASON)
        kept = {own: [part.kept(knobs["keep"]) for part in _parts(own, knobs)] for own in shape.kinds}
        widths = (kept[own] for own in shape.blocks)
        narrowed = (
            block.replace(head_width=head_width, hidden=hidden)
            for block, (head_width, hidden) in zip(plan.blocks, widths, strict=True)
        )
        return plan.replace(blocks=tuple(narrowed))

    def shared_settings(self, shape: ViTShape, knobs: Knobs) -> Knobs:
        """No knob affects the measurement: one serves all trials."""
        return {}

    def prepare(self, shared_trainer: SharedTrainer, settings: Knobs) -> Generator[EpochReport, None, Tensors]:
        """Returns `N.attention` (H, K) and `N.mlp` (F,), the worths of block N's units."""
        images_B3HW = torch.cat(list(shared_trainer.images(PASSES * PASS_IMAGES)))
        worths = gradient_rms(shared_trainer.student(), torch.split(images_B3HW, PASS_IMAGES))
        # No epochs: all trials of a search share less than a thousand images.
        yield EpochReport(epoch=0.0, phase=Phase.SHARED, metrics={"images": float(len(images_B3HW))})
        return {
            f"{number}.{part}": worth
            for number, pair in enumerate(worths)
            for part, worth in zip(("attention", "mlp"), pair, strict=True)
        }

    def attach(self, model: nn.Module, context: StepContext, images_B3HW: Tensor) -> nn.Module:
        check_first(context.shape, context.plan, self.name, _REASON)
        assert context.shared is not None
        blocks: list[Any] = blocks_of(model)
        for number, block in enumerate(blocks):
            # Buffers, so that `prune` finds them in the student wherever it is moved.
            block.register_buffer("worth_HK", context.shared[f"{number}.attention"])
            block.register_buffer("worth_F", context.shared[f"{number}.mlp"])
        if context.knobs["refit"]:
            measure_readers(model, images_B3HW)
        freeze(model)
        return model

    def loss(self, knobs: Knobs, batch: DistillationBatch) -> Tensors:
        """Unused: nothing is trained before pruning."""
        return {"loss": batch.task_loss}

    def prune(self, student: nn.Module, context: StepContext) -> SlimmedModel:
        shape, plan, knobs = context.shape, context.plan, context.knobs
        blocks: list[Any] = blocks_of(student)
        # On the CPU, so that equal worths are ranked equally whichever device measured them.
        worths = [
            UnitWorths(head_HK=block._buffers.pop("worth_HK").cpu(), hidden_F=block._buffers.pop("worth_F").cpu())
            for block in blocks
        ]
        options = RemovalOptions(width_multiple=knobs["width_multiple"], whole=knobs["whole"])
        ranking = order_removals(_over_cost(worths, shape, plan, knobs["cost_power"]), shape, plan, options, context.budget)
        layers, finished = prune_to_budget(shape, plan, ranking, context.budget, context.constraints)
        for block, layer, worth in zip(blocks, layers, worths, strict=True):
            prune_widths(block, layer, worth.head_HK, worth.hidden_F)
        student.requires_grad_(True)
        return SlimmedModel(model=install(student, Trunk(blocks_of(student), {})), plan=finished, knobs=knobs)

    def build(self, model: nn.Module, shape: ViTShape, plan: Plan, knobs: Knobs) -> nn.Module:
        for block, own in zip(blocks_of(model), plan.blocks, strict=True):
            empty_widths(block, own)
        return install(model, Trunk(blocks_of(model), {}))


def _over_cost(worths: list[UnitWorths], shape: ViTShape, plan: Plan, power: float) -> list[UnitWorths]:
    """Worths over cost^power. With 1/2 this is the order of loss over cost, because the loss is quadratic in the gate."""
    scored = []
    for worth, own, block in zip(worths, shape.blocks, plan.blocks, strict=True):
        per_dim, per_hidden, _ = unit_costs(own, block)
        scored.append(UnitWorths(head_HK=worth.head_HK / per_dim**power, hidden_F=worth.hidden_F / per_hidden**power))
    return scored


def _parts(own: BlockShape, knobs: Knobs) -> tuple[KeptShare, KeptShare]:
    """The parts of a block: head width, hidden units."""
    multiple = knobs["width_multiple"]
    return (
        KeptShare(size=own.head_width, multiple=head_multiple(own, multiple), slope=1.0, floor=0.0),
        KeptShare(size=own.hidden, multiple=multiple, slope=1.0, floor=0.0),
    )
