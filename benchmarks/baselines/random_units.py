"""Random units, the controls for the two things that width's gradients decide: how wide each layer is, and which of its units stay.

`random_units` has the widths that width's ranking leaves each layer, and a random order of the units within each head and MLP.
`random_width` has neither: every layer keeps the same share of its units, in a random order. Both orders are drawn by the recipe's seed.
Everything else is width's. Like the other baselines they are pruned without a refit, unless `refit` asks for it.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn

from autoslim.methods.base import StepContext
from autoslim.methods.knob import Ranges
from autoslim.methods.width.method import Width


class RandomUnits(Width):
    name = "random_units"
    paper = "none: a baseline"
    ranges: ClassVar[Ranges] = {**Width.ranges, "refit": dataclasses.replace(Width.ranges["refit"], default=False)}

    def attach(self, model: nn.Module, context: StepContext, images_B3HW: Tensor) -> nn.Module:
        assert context.shared is not None
        drawn = {name: self.draw(worth) for name, worth in context.shared.items()}
        return super().attach(model, dataclasses.replace(context, shared=drawn), images_B3HW)

    def draw(self, worth: Tensor) -> Tensor:
        """Worths of this shape, (H, K) or (F,), whose order is drawn."""
        # A ranking sorts the worths of a head and of an MLP before it compares layers: their order says nothing about the widths.
        return worth[..., torch.randperm(worth.shape[-1])]


class RandomWidth(RandomUnits):
    name = "random_width"
    # Worths are shares already: what a unit costs must not make one layer narrower than another.
    ranges: ClassVar[Ranges] = {
        **RandomUnits.ranges,
        "cost_power": dataclasses.replace(RandomUnits.ranges["cost_power"], default=0.0),
    }

    def draw(self, worth: Tensor) -> Tensor:
        """The worth of a unit is the share of its layer that is gone before it goes."""
        ranks = torch.arange(worth.shape[-1], device=worth.device) / worth.shape[-1]
        return torch.stack([ranks[torch.randperm(len(ranks))] for _ in range(worth[..., 0].numel())]).view(worth.shape)
