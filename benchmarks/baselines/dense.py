"""The dense model, tuned as long as everything else: what the epochs alone are worth."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs
from autoslim.core.shape import ViTShape
from autoslim.methods.base import Method, SlimmedModel, StepContext
from autoslim.methods.knob import Ranges
from autoslim.methods.trainer import DistillationBatch, Tensors


class PruneThenFinetune(Method):
    """A baseline without a train phase: `build` makes the structure out of the dense weights, and all epochs go into tuning."""

    paper = "none: a baseline"

    def attach(self, model: nn.Module, context: StepContext, images_B3HW: Tensor) -> nn.Module:
        return model.requires_grad_(False)

    def loss(self, knobs: Knobs, batch: DistillationBatch) -> Tensors:
        return {"loss": batch.task_loss}

    def prune(self, student: nn.Module, context: StepContext) -> SlimmedModel:
        plan = self.expect(context.shape, context.plan, context.knobs)
        model = self.build(student, context.shape, plan, context.knobs).requires_grad_(True)
        return SlimmedModel(model=model, plan=plan, knobs=context.knobs)


class DenseFinetuned(PruneThenFinetune):
    name = "dense"
    ranges: ClassVar[Ranges] = {}

    def expect(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> Plan:
        return plan

    def build(self, model: nn.Module, shape: ViTShape, plan: Plan, knobs: Knobs) -> nn.Module:
        return model
