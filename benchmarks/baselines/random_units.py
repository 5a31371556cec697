"""Random units in width's structure, the control for its gradients.

Everything is width's, the widths that its ranking leaves each layer included, but which units stay: a random order within each head and
MLP, drawn by the recipe's seed. Like the other baselines it is pruned without a refit, unless `refit` asks for it.
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
        # A ranking sorts the worths of a head and of an MLP before it compares layers: their order says nothing about the widths.
        shuffled = {name: worth[..., torch.randperm(worth.shape[-1])] for name, worth in context.shared.items()}
        return super().attach(model, dataclasses.replace(context, shared=shuffled), images_B3HW)
