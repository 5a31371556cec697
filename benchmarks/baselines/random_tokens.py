"""The baseline that token slimming must beat: patches drawn at random, anew for every image, dropped at the same blocks.

It takes life regression's schedule, without a regressor to pay for, and spends all of a trial's epochs on tuning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs
from autoslim.core.shape import ViTShape
from autoslim.methods.base import Method, SlimmedModel, StepContext
from autoslim.methods.knob import Ranges
from autoslim.methods.layers.backbone import install
from autoslim.methods.layers.token_selector import FirstTokens, TokenSelector
from autoslim.methods.layers.token_trunk import Trunk, blocks_of
from autoslim.methods.layers.tokens import behind_prefix
from autoslim.methods.life_regression.method import LifeRegression
from autoslim.methods.life_regression.schedule import schedule
from autoslim.methods.trainer import DistillationBatch, Tensors
from autoslim.models.placed_tokens import TokenIndices


class KeepRandom(TokenSelector):
    """The first drop; the order is random, so that later drops slice off random patches, too."""

    def __init__(self, patches: int, num_prefix_tokens: int) -> None:
        super().__init__()
        self.patches, self.num_prefix_tokens = patches, num_prefix_tokens

    def rows(self, x_BND: Tensor) -> TokenIndices:
        score_BP = torch.rand(x_BND.shape[0], x_BND.shape[1] - self.num_prefix_tokens, device=x_BND.device)
        return behind_prefix(score_BP.argsort(dim=1)[:, : self.patches], num_prefix_tokens=self.num_prefix_tokens)


class RandomTokens(Method):
    name = "random_tokens"
    paper = "none: a baseline"
    _life = LifeRegression()
    ranges: ClassVar[Ranges] = {
        name: knob
        for name, knob in LifeRegression.ranges.items()
        if name not in ("mode", "dead", "start", "ends", "temperature", "loss", "lr_decay", "train_share", "regressor_lr")
        and not name.startswith("tune")
    }

    def is_active(self, knob: str, chosen: Knobs) -> bool:
        return self._life.is_active(knob, chosen)

    def repair(self, shape: ViTShape, knobs: Knobs) -> Knobs:
        return {name: value for name, value in self._life.repair(shape, knobs).items() if name in self.ranges}

    def expect(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> Plan:
        expected = self._life.expect(shape, plan, knobs)
        return expected.replace(extras=expected.extras[:-1])

    def costlier(self, shape: ViTShape, knobs: Knobs, ranges: Ranges) -> Iterator[Knobs]:
        return self._life.costlier(shape, knobs, ranges)

    def attach(self, model: nn.Module, context: StepContext, images_B3HW: Tensor) -> nn.Module:
        model.requires_grad_(False)
        return model

    def loss(self, knobs: Knobs, batch: DistillationBatch) -> Tensors:
        return {"loss": batch.task_loss}

    def prune(self, student: nn.Module, context: StepContext) -> SlimmedModel:
        model = self.build(student, context.shape, context.plan, context.knobs).requires_grad_(True)
        return SlimmedModel(model=model, plan=self.expect(context.shape, context.plan, context.knobs), knobs=context.knobs)

    def build(self, model: nn.Module, shape: ViTShape, plan: Plan, knobs: Knobs) -> nn.Module:
        layers, kept = schedule(shape, knobs)
        steps: dict[int, nn.Module] = {layers[0]: KeepRandom(kept[0], shape.prefix_tokens)}
        for layer, patches in zip(layers[1:], kept[1:], strict=True):
            steps[layer] = FirstTokens(patches + shape.prefix_tokens)
        return install(model, Trunk(blocks_of(model), steps))
