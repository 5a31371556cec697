"""The protocol every slimming method follows: expect, prepare, attach, loss, finish, build.

A trial has four phases: *attach* the method's own parts to the dense model, *train* them, *finish* (drop what only training needed
and cut for good), *tune* what is left. The loop trains exactly the parameters that ask for a gradient. What many trials need alike
(scores, a mask search) is *prepared* once and shared.

Shapes: B batch, N tokens (prefix included), P patches, D width, H heads, K head width.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Generator, Iterator
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs, Training
from autoslim.core.result import EpochReport
from autoslim.core.shape import ViTShape
from autoslim.cost.constraint_check import Constraints
from autoslim.methods.knob import Ranges, complete

Tensors = dict[str, Tensor]


class DistillationBatch(Protocol):
    """One batch of a train phase. What is asked of it is computed once, and what is not asked is not computed."""

    images_B3HW: Tensor
    student: nn.Module
    teacher: nn.Module
    """The frozen dense model."""

    @property
    def teacher_tokens(self) -> list[Tensor]:
        """The teacher's tokens (B, N, D) behind each block. Asked for before the losses, it costs no second pass."""

    @property
    def logits_BC(self) -> Tensor:
        """The student's."""

    @property
    def teacher_logits_BC(self) -> Tensor:
        """The teacher's logits."""

    @property
    def task_loss(self) -> Tensor:
        """That of the labels and of the teacher's soft labels, as the recipe weighs them."""

    @property
    def label_loss(self) -> Tensor:
        """That of the labels alone."""


class SharedTrainer(Protocol):
    """Where shared work is done: the dense model, the training images and a loop, apart from any trial."""

    shape: ViTShape
    training: Training
    teacher: nn.Module
    """The frozen dense model."""
    epoch_images: int
    """Training images in an epoch."""

    def student(self) -> nn.Module:
        """A copy of the dense model."""

    def images(self, count: int) -> Iterator[Tensor]:
        """Batches (B, 3, h, w) of `count` training images, not augmented; always the same ones."""

    def train(
        self,
        student: nn.Module,
        loss: Callable[[DistillationBatch], Tensors],
        *,
        epochs: float,
        learning_rates: dict[str, float] | None = None,
    ) -> Generator[EpochReport]:
        """Trains `student` in place, with a checkpoint an epoch; goes on from it when the work is begun again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepContext:
    """What one step of a trial has to do.

    `plan` is what earlier steps have left; `budget` and `constraints` what the finished model may cost; `bound` as in `Recipe`. `shared` is
    what `prepare` has returned, for `attach` alone, which puts into the student what `finalize` needs of it.
    """

    shape: ViTShape
    plan: Plan
    knobs: Knobs
    budget: int
    bound: str = "max"
    constraints: Constraints = dataclasses.field(default_factory=Constraints)
    shared: Tensors | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlimmedModel:
    """What `finalize` hands back: the model that is shipped, its plan, and its knobs where the real ranking changed them."""

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
        """Share of a trial's epochs that goes into the train phase."""
        return float(knobs.get("train_share", 0.0))

    @abc.abstractmethod
    def expect(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> Plan:
        """The plan that repaired knobs aim at, told from the shape alone; `plan` is what earlier steps have left."""

    def costlier(self, shape: ViTShape, knobs: Knobs, ranges: Ranges) -> Iterator[Knobs]:
        """Knobs whose plan is one count dearer each; the solver fills what is left of a budget with them."""
        return iter(())

    def shared_settings(self, shape: ViTShape, knobs: Knobs) -> Knobs | None:
        """The knobs that decide what `prepare` does; None: nothing is shared. Trials with equal ones wait for the same result."""
        return None

    def shared_share(self, settings: Knobs) -> float:
        """Share of a trial's epochs that `prepare` costs; every trial that uses the result trains so much less."""
        return 0.0

    def prepare(self, shared_trainer: SharedTrainer, settings: Knobs) -> Generator[EpochReport, None, Tensors]:
        """Does the work that trials share, from the dense model; reports, and returns what they need of it."""
        # Not abstract, because most methods share nothing. One that names shared settings and stops here is its author's mistake.
        raise AssertionError(f"{self.name} names shared settings and does not work them out")

    @abc.abstractmethod
    def attach(self, model: nn.Module, context: StepContext, images_B3HW: Tensor) -> nn.Module:
        """Puts the method's own parts into `model` (which it may take over) and says what is trained through `requires_grad`.

        `images_B3HW` are training images to measure on, not to learn from.
        """

    @abc.abstractmethod
    def loss(self, knobs: Knobs, batch: DistillationBatch) -> Tensors:
        """`loss` is minimised in the train phase; the other names are curves."""

    @abc.abstractmethod
    def finalize(self, student: nn.Module, context: StepContext) -> SlimmedModel:
        """Drops what only training needed and cuts for good, within the budget; says what is tuned through `requires_grad`."""

    def calibrate(self, model: nn.Module, context: StepContext, images: Callable[[], Iterator[Tensor]]) -> None:
        """Sets what must fit the tuned weights, such as thresholds, on unaugmented training images; called before handing over."""

    @abc.abstractmethod
    def build(self, model: nn.Module, shape: ViTShape, plan: Plan, knobs: Knobs) -> nn.Module:
        """The finished structure with untrained weights: what loading starts from. `plan` is the finished plan."""

    def learning_rates(self, student: nn.Module, knobs: Knobs) -> dict[str, float]:
        """Parameter-name suffixes whose learning rate in the train phase is a multiple of the recipe's."""
        return {}

    def tune_rate(self, knobs: Knobs) -> float:
        """The tuning's learning rate over the recipe's: less than 1 where the train phase leaves weights that are trained already."""
        return 1.0


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
