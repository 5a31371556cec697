"""`Measurer`: a trial's model on the validation images, its thresholds set so that the images keep to the budget."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe, Step
from autoslim.cost import predict
from autoslim.methods import METHODS
from autoslim.methods.base import StepContext
from autoslim.methods.layers.token_counts import image_flops, recording
from autoslim.training.agreement import agreement
from autoslim.training.context import TrialContext
from autoslim.training.device import choose_precision
from autoslim.training.evaluate import accuracy

_CALIBRATION_IMAGES = 1024
"""Training images that thresholds are set on."""

_MAX_CALIBRATIONS = 4
"""Times that thresholds are set, each for a lower budget, while the validation images' mean FLOPs exceed a budget for the mean."""


class Measured(NamedTuple):
    """Top-1 share on the validation images, or without a classifier the score of `agreement`, and the multiply-accumulates of one image:
    the mean, rounded up, and the most.
    """

    accuracy: float
    flops_mean: int
    flops_max: int


class Measurer:
    def __init__(self, recipe: Recipe, context: TrialContext) -> None:
        self._recipe, self._context, self._shape = recipe, context, context.dense.shape
        self._images = context.loader(context.splits.validation, recipe.training, seed=recipe.seed, train=False)
        self._precision = choose_precision(recipe.training.precision, context.device)

    def accuracy(self, model: nn.Module) -> float:
        """The top-1 share; of a model without a classifier, how well its features agree with the dense model's (`Agreement.score`)."""
        if not self._context.classes:
            dense = self._context.teacher
            return agreement(model, dense, self._images, device=self._context.device, precision=self._precision).score
        return accuracy(model, self._images, device=self._context.device, precision=self._precision)

    def accuracy_within_budget(self, model: nn.Module, plan: Plan, step: Step) -> float:
        """`accuracy` at thresholds that are set to the model's weights as they are now; its own thresholds stay.

        Between two epochs of fine-tuning: more tokens than the budget allows would be an advantage.
        """
        own = {name: buffer.clone() for name, buffer in model.named_buffers()}
        self.calibrate(model.eval(), plan, step)
        score = self.accuracy(model)
        for name, buffer in model.named_buffers():
            buffer.copy_(own[name])
        return score

    def calibrate(self, model: nn.Module, plan: Plan, step: Step, budget: int | None = None) -> None:
        """Sets what depends on the trained weights, such as thresholds, so that training images keep to the budget.

        `step` is the last one that the model was slimmed by, and `plan` what it has left. Without a `budget` it is the recipe's.
        """
        recipe = self._recipe
        budget = recipe.budget if budget is None else budget
        step_context = StepContext(shape=self._shape, plan=plan, knobs=step.knobs, budget=budget, bound=recipe.bound)

        def images() -> Iterator[Tensor]:
            return self._context.plain_images(_CALIBRATION_IMAGES, recipe.training, seed=recipe.seed)

        with torch.no_grad():
            METHODS[step.method].calibrate(model, step_context, images)

    def calibrate_and_measure(self, model: nn.Module, plan: Plan, step: Step) -> Measured:
        """Calibrates until the budget holds on the validation images, too."""
        budget = self._recipe.budget
        for _ in range(_MAX_CALIBRATIONS):
            self.calibrate(model, plan, step, budget)
            measured = self._measure(model, plan)
            if self._recipe.bound == "max" or measured.flops_mean <= self._recipe.budget:
                break
            # Validation images keep more tokens than the training images did: aim lower by the same ratio.
            budget = int(budget * self._recipe.budget / measured.flops_mean)
        return measured

    def _measure(self, model: nn.Module, plan: Plan) -> Measured:
        with recording(model) as counts:
            share = self.accuracy(model)
        if not counts:
            # All images have the same tokens, so that the plan has their FLOPs.
            fixed = predict(self._shape, plan).total
            return Measured(share, fixed, fixed)
        flops_B = image_flops(model, self._shape, plan, torch.cat(counts))
        return Measured(share, math.ceil(flops_B.double().mean()), int(flops_B.max()))
