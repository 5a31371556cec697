"""The protocol every slimming method follows: expect, attach, loss, finish, build.

A trial has four beats: *attach* the method's own parts to the dense model, *train* them, *finish* (drop what only training needed
and cut for good), *tune* what is left. The loop trains exactly the parameters that ask for a gradient.

Shapes: B batch, N tokens (prefix included), P patches, D width, H heads, K head width.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autoslim.methods.knob import Ranges, complete
from autoslim.plan import Plan
from autoslim.recipe import Knobs
from autoslim.shape import ViTShape


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """What `finish` hands back: the model that is shipped, its plan, and its knobs where the real ranking changed them."""

    model: nn.Module
    plan: Plan
    knobs: Knobs


class Method(abc.ABC):
    """One slimming method. Stateless: everything that belongs to a trial lives in its model and its knobs."""

    name: ClassVar[str]
    paper: ClassVar[str]
    ranges: ClassVar[Ranges]

    def check(self, shape: ViTShape) -> None:
        """Raises UnsupportedModelError naming the part of the model that this method cannot handle."""

    def is_active(self, knob: str, chosen: Knobs) -> bool:
        """Whether `knob` matters, given those already chosen (in the order of `ranges`)."""
        return True

    def repair(self, shape: ViTShape, knobs: Knobs) -> Knobs:
        """Complete knobs that mean the same: defaults filled in, inactive ones left out, order restored.

        Raises:
            SpaceError: for an unknown knob or a value out of its range.
        """
        full = complete(self.ranges, knobs, depth=shape.depth)
        active: Knobs = {}
        for name in self.ranges:
            if self.is_active(name, full):
                active[name] = full[name]
        return active

    def train_share(self, knobs: Knobs) -> float:
        """Share of a trial's epochs that goes into the train beat."""
        return float(knobs.get("train_share", 0.0))

    @abc.abstractmethod
    def expect(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> Plan:
        """The plan that repaired knobs aim at, told from the shape alone; `plan` is what earlier steps have left."""

    def dearer(self, shape: ViTShape, knobs: Knobs, ranges: Ranges) -> Iterator[Knobs]:
        """Knobs whose plan is one count dearer each; the solver fills what is left of a budget with them."""
        return iter(())

    @abc.abstractmethod
    def attach(self, model: nn.Module, shape: ViTShape, knobs: Knobs, images_B3HW: Tensor) -> nn.Module:
        """Puts the method's own parts into `model` (which it may take over) and says what is trained through `requires_grad`.

        `images_B3HW` are training images to measure on, not to learn from.
        """

    @abc.abstractmethod
    def loss(self, student: nn.Module, knobs: Knobs, task_loss: Tensor) -> dict[str, Tensor]:
        """`loss` is minimised in the train beat; the other names are curves. `task_loss` is that of the labels and the teacher."""

    @abc.abstractmethod
    def finish(self, student: nn.Module, shape: ViTShape, plan: Plan, knobs: Knobs, budget: int) -> Finished:
        """Drops what only training needed and cuts for good, within `budget`; says what is tuned through `requires_grad`.

        `plan` is the plan of `student` before this method.
        """

    @abc.abstractmethod
    def build(self, model: nn.Module, shape: ViTShape, plan: Plan, knobs: Knobs) -> nn.Module:
        """The finished structure with untrained weights: what loading starts from. `plan` is the finished plan."""

    def learning_rates(self, student: nn.Module, knobs: Knobs) -> dict[str, float]:
        """Parameter-name suffixes whose learning rate in the train beat is a multiple of the recipe's."""
        return {}


def freeze(module: nn.Module, *, but: tuple[nn.Module | nn.Parameter, ...] = ()) -> None:
    """Nothing in `module` asks for a gradient any more, except what is in `but`."""
    module.requires_grad_(False)
    for part in but:
        part.requires_grad_(True)


def logits_of(output: Any) -> Tensor:
    """The class logits of a timm model, which is a pair while a distilled DeiT trains both heads."""
    if isinstance(output, tuple):
        return torch.stack(output).mean(0)
    assert isinstance(output, Tensor)
    return output
