"""The protocol of a slimming method: expect, prepare, attach, loss, prune, calibrate, build.

A trial runs a method in four phases: *attach* adds the method's own parts to the dense model, *train* trains them, *prune* removes
what only training needs and what the plan leaves out, *fine-tune* trains the slimmed model. The training loop updates exactly the
parameters that require a gradient. Work that many trials have in common (scores, a mask search) is *prepared* once and shared.

Shapes: B batch, N tokens (prefix included), P patches, D width, C classes.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Generator, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs
from autoslim.core.result import EpochReport
from autoslim.core.shape import ViTShape
from autoslim.cost.constraint_check import Constraints
from autoslim.methods.knob import Ranges, complete
from autoslim.methods.trainer import DistillationBatch, SharedTrainer, Tensors

ModuleFactory = Callable[[ViTShape, int, int], nn.Module]
"""Makes a module from the shape, the tokens that enter it and the tokens that it leaves, prefix tokens included in both."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepContext:
    """What one step of a recipe works with.

    `plan` is what earlier steps of the recipe have left of the dense model. `budget` (multiply-accumulates an image) and `constraints`
    limit the finished model; `bound` says whether the budget holds for every image (`max`) or for their mean, as in `Recipe`. `shared`
    is the result of `prepare`. Only `attach` gets it, and stores in the student what `prune` needs of it. `dense` is the dense model
    where an earlier step has pruned the student; see `to_measure`.
    """

    shape: ViTShape
    plan: Plan
    knobs: Knobs
    budget: int
    bound: str = "max"
    constraints: Constraints = dataclasses.field(default_factory=Constraints)
    shared: Tensors | None = None
    dense: nn.Module | None = None

    def to_measure(self, model: nn.Module) -> nn.Module:
        """What decides which tokens go: the dense model, where `model` has been pruned by an earlier step and not trained since."""
        return model if self.dense is None else self.dense


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlimmedModel:
    """What `prune` returns: the model, its plan, and its knobs where the final ranking changed them.

    `companion` is trained along in the fine-tuning, as the model's submodule `companion`, and is no part of the finished model.
    """

    model: nn.Module
    plan: Plan
    knobs: Knobs
    companion: nn.Module | None = None


class Method(abc.ABC):
    """One slimming method. It holds no state: what belongs to a trial is in the trial's model and knobs.

    `docs/developing/smallest_method.py` is a complete one to copy. The members, obligatory ones first:

    ====================  ===========  =======================================================================================
    member                default      what it is for
    ====================  ===========  =======================================================================================
    `name`                obligatory   the method's name in recipes, search spaces and results
    `paper`               obligatory   the address of its paper, or `none: ` and a few words; the method's page has the same text
    `ranges`              obligatory   its knobs, each a `Knob`, in the order in which they are drawn
    `expect`              obligatory   the plan that knobs aim at, from the shape alone
    `attach`              obligatory   adds the method's parts to the model; `requires_grad` selects what the train phase trains
    `loss`                obligatory   the train phase's loss, and further values to plot
    `prune`               obligatory   removes what the plan leaves out; `requires_grad` selects what is fine-tuned
    `build`               obligatory   the finished structure without trained weights, for loading
    `before_others`       none         knobs that must have these values where a search puts another step behind this one
    `check`               accepts      refuses a model, naming the part that the method cannot handle
    `is_active`           always       whether a knob has an effect, given those before it
    `repair`              fills in     completes knobs; overridden where different knobs give the same model
    `train_share`         the knob     share of a trial's epochs in the train phase: the knob `train_share`, or 0 without one
    `costlier`            none         knobs one count more expensive each, with which the solver fills a budget
    `shared_settings`     None         the knobs that `prepare` depends on; None: the method shares no work
    `shared_share`        0            share of a trial's epochs that `prepare` takes
    `prepare`             asserts      the shared work; obligatory where `shared_settings` returns knobs
    `calibrate`           nothing      sets thresholds and the like to the fine-tuned weights
    `priced_modules`      none         the modules that the method adds, for the latency table
    `learning_rates`      none         multiples of the recipe's learning rate in the train phase, by parameter-name suffix
    `finetune_rate`       1            multiple of the recipe's learning rate in the fine-tune phase
    `finetune_rates`      none         multiples of that rate, by parameter-name suffix
    `lr_decay`            `cosine`     how the learning rate falls in the train and the fine-tune phase: `cosine` or `linear`
    `finetune_loss`       the task's   the fine-tune phase's loss, and further values to plot
    `companion`           none         the untrained companion of `prune`, with which an interrupted fine-tuning resumes
    `replaced_settings`   none         settings of the recipe's training that have no effect, because the method has its own
    `needs_rest`          if trained   whether a model that an earlier step has pruned is always fine-tuned before `attach`
    ====================  ===========  =======================================================================================

    *How a part gets its price.* `expect` and `prune` describe every block by its tokens and widths (`BlockPlan`); their FLOPs and
    parameters follow. A module that the dense model does not have is an `Extra` of the plan with its own multiply-accumulates, norms
    and parameters; `priced_modules` makes it under the same name, so that its latency is measured. The contract suite compares both
    with what fvcore counts.

    *How a count becomes a knob that the solver moves.* Make it a `float` knob, usually a share, in which the FLOPs are monotone, and
    set `cost_sign` to 1 where they rise with it or to -1 where they fall. The solver moves all such knobs together until the budget
    is met. `repair` rounds the knob to the share of the count that it selects, so that equal counts are equal recipes. Where one
    count more moves several blocks at once, `costlier` offers finer steps.

    *Where a module on the tokens goes.* In front of a block: `Trunk(blocks, {index: pre_block})`. Between attention and MLP: `MidBlock`.
    For the queries of a block alone: `RectangularBlock`. It is usually a `TokenSelector`; any other has a `token_map`.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    ranges: ClassVar[Ranges]
    before_others: ClassVar[Knobs] = {}

    def check(self, shape: ViTShape) -> None:
        """Raises UnsupportedModelError naming the part of the model that this method cannot handle."""

    def is_active(self, knob: str, chosen: Knobs) -> bool:
        """Whether `knob` has an effect, given the knobs `chosen` before it, in the order of `ranges`."""
        return True

    def repair(self, shape: ViTShape, knobs: Knobs) -> Knobs:
        """Complete knobs with the same meaning: defaults filled in, inactive ones removed, in the order of `ranges`.

        Raises:
            SpaceError: for an unknown knob or a value outside its range.
        """
        full = complete(self.ranges, knobs, depth=shape.depth)
        active: Knobs = {}
        for name in self.ranges:
            if self.is_active(name, full):
                active[name] = full[name]
        return active

    def train_share(self, knobs: Knobs) -> float:
        """Share of a trial's epochs that the train phase takes."""
        return float(knobs.get("train_share", 0.0))

    @abc.abstractmethod
    def expect(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> Plan:
        """The plan that repaired knobs aim at, from the shape alone; `plan` is what earlier steps have left."""

    def costlier(self, shape: ViTShape, knobs: Knobs, ranges: Ranges) -> Iterator[Knobs]:
        """Knobs whose plans are one count more expensive each; the solver fills the rest of a budget with them."""
        return iter(())

    def shared_settings(self, shape: ViTShape, knobs: Knobs) -> Knobs | None:
        """The knobs that `prepare` depends on, or None where nothing is shared. Trials with equal settings wait for one result."""
        return None

    def shared_share(self, settings: Knobs) -> float:
        """Share of a trial's epochs that `prepare` takes; every trial that uses the result trains that much less."""
        return 0.0

    def prepare(self, shared_trainer: SharedTrainer, settings: Knobs) -> Generator[EpochReport, None, Tensors]:
        """Does the shared work on the dense model; yields reports and returns tensors by name for `StepContext.shared`."""
        # Not abstract, because most methods share nothing. One that returns shared settings has to override it.
        raise AssertionError(f"{self.name} returns shared settings but has no prepare()")

    @abc.abstractmethod
    def attach(self, model: nn.Module, context: StepContext, images_B3HW: Tensor) -> nn.Module:
        """Adds the method's own parts to `model`, in place or not, and returns the student.

        `requires_grad` of the student's parameters selects what the train phase trains. `images_B3HW` are training images for
        measurements; nothing is trained on them.
        """

    @abc.abstractmethod
    def loss(self, knobs: Knobs, batch: DistillationBatch) -> Tensors:
        """Scalars by name: `loss` is minimised in the train phase, the others are plotted."""

    @abc.abstractmethod
    def prune(self, student: nn.Module, context: StepContext) -> SlimmedModel:
        """Removes for good what only training needs and what the plan leaves out, within the budget.

        `requires_grad` of the returned model selects what is fine-tuned. What an earlier step has pruned (`Plan.narrowed` of the
        context's plan) has to be, since a rest alone is short.
        """

    def calibrate(self, model: nn.Module, context: StepContext, images: Callable[[], Iterator[Tensor]]) -> None:
        """Sets what depends on the fine-tuned weights, such as thresholds, in place. Called before fine-tuning, and after it.

        `images` returns batches (B, 3, h, w) of training images without augmentation.
        """

    @abc.abstractmethod
    def build(self, model: nn.Module, shape: ViTShape, plan: Plan, knobs: Knobs) -> nn.Module:
        """The finished structure without trained weights, from a dense model; loading starts with it. `plan` is the finished plan."""

    def priced_modules(self) -> dict[str, ModuleFactory]:
        """Factories of the modules that the method adds to the dense model, by `Extra.name`; the latency table measures each alone.

        Their weights need not be trained, which does not change their latency. An `Extra` without an entry here is priced at the
        dense model's time per multiply-accumulate.
        """
        return {}

    def learning_rates(self, student: nn.Module, knobs: Knobs) -> dict[str, float]:
        """Multiples of the recipe's learning rate in the train phase, by suffix of the parameter's name."""
        return {}

    def finetune_rate(self, knobs: Knobs) -> float:
        """Multiple of the recipe's learning rate in the fine-tune phase; below 1 where the train phase has trained the weights already."""
        return 1.0

    def finetune_loss(self, knobs: Knobs, batch: DistillationBatch) -> Tensors:
        """Scalars by name: `loss` is minimised in the fine-tune phase, the others are plotted.

        Of several steps, the last one's method decides.
        """
        return {"loss": batch.task_loss}

    def finetune_rates(self, model: nn.Module, knobs: Knobs) -> dict[str, float]:
        """Multiples of the fine-tune phase's learning rate, by suffix of the parameter's name."""
        return {}

    def lr_decay(self, knobs: Knobs) -> str:
        """How the learning rate falls after its peak in the train and the fine-tune phase: along half a `cosine`, or `linear`.

        Of several steps, the last one's method decides on the fine-tuning.
        """
        return "cosine"

    def companion(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> nn.Module | None:
        """What `prune` returns as the companion, without trained weights; `plan` is the finished plan."""
        return None

    def replaced_settings(self, knobs: Knobs) -> frozenset[str]:
        """Names in `TrainingSettings` that have no effect as the last step of a recipe; a search does not draw them."""
        return frozenset()

    def needs_rest(self, knobs: Knobs) -> bool:
        """Whether a model that an earlier step has pruned is always fine-tuned before `attach`.

        Otherwise it is where the recipe has a `rest_share`; without one both steps prune at once, and this one decides on the dense model.
        A step that trains parts would train them on a model that has not recovered from the pruning.
        """
        return self.train_share(knobs) > 0


def freeze(module: nn.Module, *, but: tuple[nn.Module | nn.Parameter, ...] = ()) -> None:
    """No parameter of `module` requires a gradient afterwards, except those in `but`."""
    module.requires_grad_(False)
    for part in but:
        part.requires_grad_(True)


def logits_of(output: Any) -> Tensor:
    """The class logits (B, C) of a timm model's output, which is a pair while a distilled DeiT trains both heads: their mean."""
    if isinstance(output, tuple):
        return torch.stack(output).mean(0)
    assert isinstance(output, Tensor)
    return output
