"""The baseline that token slimming must beat: patches drawn at random, anew for every image, dropped at the same blocks.

It takes life regression's schedule, without a regressor to pay for, and spends all of a trial's epochs on tuning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from autoslim.methods.base import Finished, Method
from autoslim.methods.knob import Ranges
from autoslim.methods.life_regression import KeepFirst, LifeRegression, schedule
from autoslim.methods.tokens import keep_patches
from autoslim.methods.trunk import Trunk, blocks_of, install
from autoslim.plan import Plan
from autoslim.recipe import Knobs
from autoslim.shape import ViTShape


class KeepRandom(nn.Module):
    """The first drop; the order is random, so that later drops slice off random patches, too."""

    def __init__(self, patches: int, num_prefix_tokens: int) -> None:
        super().__init__()
        self.patches, self.num_prefix_tokens = patches, num_prefix_tokens

    def forward(self, x_BND: Tensor) -> Tensor:
        score_BP = torch.rand(x_BND.shape[0], x_BND.shape[1] - self.num_prefix_tokens, device=x_BND.device)
        return keep_patches(x_BND, score_BP.argsort(dim=1)[:, : self.patches], num_prefix_tokens=self.num_prefix_tokens)


class RandomTokens(Method):
    name = "random_tokens"
    paper = "none: a baseline"
    _life = LifeRegression()
    ranges: ClassVar[Ranges] = {
        name: knob for name, knob in LifeRegression.ranges.items() if name not in ("temperature", "train_share", "regressor_lr")
    }

    def is_active(self, knob: str, chosen: Knobs) -> bool:
        return self._life.is_active(knob, chosen)

    def repair(self, shape: ViTShape, knobs: Knobs) -> Knobs:
        return {name: value for name, value in self._life.repair(shape, knobs).items() if name in self.ranges}

    def expect(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> Plan:
        expected = self._life.expect(shape, plan, knobs)
        return expected.replace(extras=expected.extras[:-1])

    def dearer(self, shape: ViTShape, knobs: Knobs, ranges: Ranges) -> Iterator[Knobs]:
        return self._life.dearer(shape, knobs, ranges)

    def attach(self, model: nn.Module, shape: ViTShape, knobs: Knobs, images_B3HW: Tensor) -> nn.Module:
        model.requires_grad_(False)
        return model

    def loss(self, student: nn.Module, knobs: Knobs, task_loss: Tensor) -> dict[str, Tensor]:
        return {"loss": task_loss}

    def finish(self, student: nn.Module, shape: ViTShape, plan: Plan, knobs: Knobs, budget: int) -> Finished:
        model = self.build(student, shape, plan, knobs).requires_grad_(True)
        return Finished(model=model, plan=self.expect(shape, plan, knobs), knobs=knobs)

    def build(self, model: nn.Module, shape: ViTShape, plan: Plan, knobs: Knobs) -> nn.Module:
        layers, kept = schedule(shape, knobs)
        steps: dict[int, nn.Module] = {layers[0]: KeepRandom(kept[0], shape.prefix_tokens)}
        for layer, patches in zip(layers[1:], kept[1:], strict=True):
            steps[layer] = KeepFirst(patches + shape.prefix_tokens)
        return install(model, Trunk(blocks_of(model), steps))
