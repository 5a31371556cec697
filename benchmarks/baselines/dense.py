"""The dense model, tuned as long as everything else: what the epochs alone are worth."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs
from autoslim.core.shape import ViTShape
from autoslim.methods.base import Brief, Finished, Lesson, Method, Tensors
from autoslim.methods.knob import Ranges


class CutAndTune(Method):
    """A baseline without a train beat: `build` makes the structure out of the dense weights, and all epochs go into tuning."""

    paper = "none: a baseline"

    def attach(self, model: nn.Module, brief: Brief, images_B3HW: Tensor) -> nn.Module:
        return model.requires_grad_(False)

    def loss(self, knobs: Knobs, lesson: Lesson) -> Tensors:
        return {"loss": lesson.task_loss}

    def finish(self, student: nn.Module, brief: Brief) -> Finished:
        plan = self.expect(brief.shape, brief.plan, brief.knobs)
        model = self.build(student, brief.shape, plan, brief.knobs).requires_grad_(True)
        return Finished(model=model, plan=plan, knobs=brief.knobs)


class DenseTuned(CutAndTune):
    name = "dense"
    ranges: ClassVar[Ranges] = {}

    def expect(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> Plan:
        return plan

    def build(self, model: nn.Module, shape: ViTShape, plan: Plan, knobs: Knobs) -> nn.Module:
        return model
