"""DPS, the dynamic form of Patch Slimming (CVPR 2022, arXiv 2106.02852): every image has its own removed patches in a block.

All that is known of the paper's text on its dynamic form is that patches are removed depending on the input, and there is no public code.
What it leaves open is as in the static form where that decides it: the counts of Algorithm 1, Eq. 6 along the paper's paths, rectangular
blocks, and a last block that computes the class token alone. How patches are selected is ours: in every block that removes some, a small
scorer on the tokens that enter it, LayerNorm and a linear map to one number (`linear`), with a small MLP added (`mlp`), predicts log s up
to scale, s being the image's own impact score (Eq. 6) in the dense model. The scorer starts from least squares on some images, and is
trained in the slimmed model itself, on the tokens that it will select from. The patches with the highest predictions are computed, as
many in every image as in the static form; keys and values are those of all that enter. The scorers are priced in the plan and stay
frozen while the blocks are fine-tuned, unless they `learn_from` the `task` (`TaskScoredBlock`), with `noise` on their scores if asked
for; with `gradual`, counts fall while the blocks are tuned. Blocks start from the dense model's
weights: Algorithm 1 tunes them for fixed places.

With `adaptive`, counts differ from image to image, too (`layers.adaptive_trunk`): a block computes the patches whose prediction is above
its threshold. Where the budget holds for every image, the count of the fixed form is the cap, and most images cost less; where it
holds for the mean, an image may cost more. `calibrate` sets the thresholds.

Shapes: B batch, N tokens (prefix included), P patches, K patches that stay, D width, E features and a constant, L blocks.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autoslim.core.plan import Extra, Plan
from autoslim.core.recipe import Knobs
from autoslim.core.shape import ViTShape
from autoslim.methods.base import ModuleFactory, SlimmedModel, StepContext, freeze
from autoslim.methods.dps.scorer import (
    SELECTOR,
    ImpactScorer,
    KeepSelected,
    SelectedRows,
    TaskScoredBlock,
    log_impact,
    price_of_selector,
)
from autoslim.methods.dps.thresholds import (
    CALIBRATION_BATCHES,
    HEADROOM,
    scores_of,
    set_threshold,
    shift_thresholds_to_mean,
    threshold_at,
)
from autoslim.methods.knob import Knob, Ranges
from autoslim.methods.layers.adaptive_trunk import (
    AdaptiveTrunk,
    TokenDrop,
    TokenDropBlock,
    refuse_pooling,
)
from autoslim.methods.layers.backbone import install
from autoslim.methods.layers.gradual import GRADUAL
from autoslim.methods.layers.groups import SizedTokens
from autoslim.methods.layers.merging import DEAD, merges
from autoslim.methods.layers.rectangular_block import RectangularBlock, class_query_last
from autoslim.methods.layers.sublayer import RemovedSublayer
from autoslim.methods.layers.token_selector import TokenSelector
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.methods.layers.tokens import order_by
from autoslim.methods.patch_slimming.impact import find_masks, tokens_between_blocks
from autoslim.methods.patch_slimming.method import (
    PatchSlimming,
    counts_of_plan,
    install_selectors,
    measured_tokens,
    token_selectors,
)
from autoslim.methods.patch_slimming.pyramid import Counts, counts_left, has_class_query, removals
from autoslim.methods.trainer import DistillationBatch, Tensors
from autoslim.models import read_shape

KINDS = ("linear", "mlp")


class DPS(PatchSlimming):
    """Patch Slimming's counts, with a selector in each block that removes patches."""

    name = "dps"
    paper = "https://arxiv.org/abs/2106.02852"
    ranges: ClassVar[Ranges] = {
        **{name: knob for name, knob in PatchSlimming.ranges.items() if name not in ("places", "dead", "gradual")},
        "selector": Knob(
            kind="choice", help="patches are scored by a linear map, or with a small MLP added", default="linear", choices=KINDS
        ),
        "adaptive": Knob(kind="choice", help="counts that differ from image to image", default=False, choices=(False, True)),
        "dead": DEAD,
        "learn_from": Knob(
            kind="choice",
            help="what selectors learn from: impact scores, before the tuning, or the task's loss, too, in the tuning",
            default="impact",
            choices=("impact", "task"),
        ),
        "noise": Knob(
            kind="float",
            help="Gumbel noise on the scores while selectors learn from the task, in deviations of scores",
            default=0.0,
            low=0.0,
            high=2.0,
        ),
        "gradual": GRADUAL,
        "train_share": Knob(
            kind="float", help="share of the epochs spent on the selectors alone", default=0.2, low=0.02, high=0.6
        ),
        "selector_lr": Knob(
            kind="float", help="selectors' learning rate over the recipe's", default=4.0, low=0.5, high=50.0, log=True
        ),
    }

    def is_active(self, knob: str, chosen: Knobs) -> bool:
        if knob in ("learn_from", "noise"):
            # Where counts are the image's own, thresholds are set to the scores; where patches merge, what stays stands for others.
            able = not chosen["adaptive"] and chosen["dead"] == "drop"
            return able and (knob == "learn_from" or chosen["learn_from"] == "task")
        # Merging, and a count that shrinks, have static numbers of patches that go.
        return super().is_active(knob, chosen) and not (knob in ("dead", "gradual") and chosen["adaptive"])

    def repair(self, shape: ViTShape, knobs: Knobs) -> Knobs:
        """Raises UnsupportedModelError for adaptive counts where the head reads patches."""
        repaired = super().repair(shape, knobs)
        if repaired["adaptive"]:
            refuse_pooling("DPS with adaptive counts", shape)
        return repaired

    def extras(self, shape: ViTShape, knobs: Knobs, counts: Counts) -> tuple[Extra, ...]:
        # A selector scores the patches that enter its block, and a block that removes none has no selector.
        prices = tuple(
            price_of_selector(shape.dim, knobs["selector"], block, before)
            for block, (before, _) in removals(shape, counts).items()
        )
        return prices + super().extras(shape, knobs, counts)

    def attach(self, model: nn.Module, context: StepContext, images_B3HW: Tensor) -> nn.Module:
        """The finished form with fixed counts, its scorers fitted to the shared images by least squares."""
        shape, knobs = context.shape, context.knobs
        tokens = measured_tokens(model, context)
        counts = self.decide(model, context, tokens).counts
        blocks = blocks_of(model)
        # Each image has masks of its own here: its Eq. 6 runs through the patches that it keeps in later blocks.
        chain = find_masks(blocks, tokens, shape, counts, paths=knobs["paths"], own=True)
        freeze(model)
        student = install_selectors(model, shape, counts, self._selectors(shape, counts, knobs), merge=merges(knobs))
        for block, selector in selectors_by_block(student).items():
            selector.scorer.to(tokens[block]).start_from(tokens[block], log_impact(chain.scores[block]))
        return class_query_last(student, shape.prefix_tokens) if knobs.get("class_query", False) else student

    @staticmethod
    def _selectors(shape: ViTShape, counts: Counts, knobs: Knobs) -> list[TokenSelector]:
        return [KeepSelected(ImpactScorer(shape.dim, shape.prefix_tokens, knobs["selector"]), count) for count in counts]

    def priced_modules(self) -> dict[str, ModuleFactory]:
        def selector(shape: ViTShape, tokens: int, left: int) -> nn.Module:
            # The linear form: the default, and next to nothing less than the MLP takes.
            scorer = ImpactScorer(shape.dim, shape.prefix_tokens, "linear")
            return SelectedRows(KeepSelected(scorer, left - shape.prefix_tokens))

        return {SELECTOR: selector, **super().priced_modules()}

    def learning_rates(self, student: nn.Module, knobs: Knobs) -> dict[str, float]:
        trained = (
            name.rpartition("scorer.")[2] for name, p in student.named_parameters() if "scorer." in name and p.requires_grad
        )
        return {f"scorer.{part}": knobs["selector_lr"] for part in sorted(set(trained))}

    def finetune_rates(self, model: nn.Module, knobs: Knobs) -> dict[str, float]:
        return self.learning_rates(model, knobs) if _learns_from_task(knobs) else {}

    def loss(self, knobs: Knobs, batch: DistillationBatch) -> Tensors:
        """The mean squared error of `log_impact`, over the patches that reach each selector.

        `agreement` is the share of the selected patches that the image's own scores select, too.
        """
        shape = read_shape(batch.teacher)
        selectors = selectors_by_block(batch.student)
        counts = counts_left(shape, {block: selector.patches for block, selector in selectors.items()})
        tokens = tokens_between_blocks(batch.teacher, batch.images_B3HW)
        chain = find_masks(blocks_of(batch.teacher), tokens, shape, counts, paths=knobs["paths"], own=True)
        place_BP = torch.arange(shape.patches, device=chain.scores.device).expand(len(tokens[0]), -1)
        # Patches that have reached a block, by their place in the image: what the scorers learn is that of the dense model, for all places.
        errors, agreements = [], []
        for block, x_BND in tokens_entering(batch.student, batch.images_B3HW, list(selectors)).items():
            score_BP = selectors[block].scorer.of_tokens(x_BND).float()
            wanted_BP = log_impact(chain.scores[block], mean=batch.mean).gather(1, place_BP)
            errors.append((score_BP - wanted_BP).square().mean())
            kept_BK = order_by(score_BP.detach())[:, : counts[block]]
            # The next selector sees what this one has selected, not what the dense model's impact would have.
            place_BP = place_BP.gather(1, kept_BK)
            agreements.append(chain.masks[block].gather(1, place_BP).float().mean())
        return {"loss": torch.stack(errors).mean(), "agreement": torch.stack(agreements).mean()}

    def prune(self, student: nn.Module, context: StepContext) -> SlimmedModel:
        shape, knobs = context.shape, context.knobs
        selectors = selectors_by_block(student)
        counts = counts_left(shape, {block: selector.patches for block, selector in selectors.items()})
        if knobs["adaptive"] and context.bound == "mean":
            counts = [min(shape.patches, math.ceil(HEADROOM * count)) for count in counts]
        plan = self.plan_of(shape, context.plan, knobs, counts)
        if knobs["adaptive"]:
            # With headroom a block may keep all patches: it has nothing to score, and its scorer has no price in the plan.
            scorers = {block: selectors[block].scorer for block in removals(shape, counts)}
            student = _adaptive(student, blocks_of(student), shape, counts, scorers)
        student.requires_grad_(True)
        if _learns_from_task(knobs):
            return SlimmedModel(model=_with_scored_blocks(student, knobs), plan=plan, knobs=knobs)
        # No gradient of the task's loss passes through a selection: scorers stay as their own loss has left them.
        for module in student.modules():
            if isinstance(module, ImpactScorer):
                freeze(module)
        return SlimmedModel(model=student, plan=plan, knobs=knobs)

    def calibrate(self, model: nn.Module, context: StepContext, images: Callable[[], Iterator[Tensor]]) -> None:
        """Sets each threshold so that, over all images, as many patches are above it as the fixed form keeps.

        Where the budget holds for every image, the count of the fixed form is also the cap, and most images cost less. Where it holds
        for the mean, the caps are `HEADROOM` times that, and all thresholds move by the same shift until the mean is within the budget.
        """
        trunk: Any = model.blocks
        if not isinstance(trunk, AdaptiveTrunk):
            return
        seen = torch.cat(list(itertools.islice(images(), CALIBRATION_BATCHES)))
        mean = context.bound == "mean"
        # Front to back: each threshold decides which patches reach the later scorers.
        for _, drop in trunk.drops():
            # With a budget for the mean, the caps include the headroom that the wanted counts do not have.
            wanted = drop.cap / HEADROOM if mean else drop.cap
            set_threshold(drop, threshold_at(scores_of(model, drop, seen), wanted * len(seen)))
        if mean:
            shift_thresholds_to_mean(model, context, seen)

    def build(self, model: nn.Module, shape: ViTShape, plan: Plan, knobs: Knobs) -> nn.Module:
        counts = counts_of_plan(shape, plan)
        if knobs["adaptive"]:
            dropping = removals(shape, counts)
            scorers = {block: ImpactScorer(shape.dim, shape.prefix_tokens, knobs["selector"]) for block in dropping}
            built = _adaptive(model, blocks_of(model), shape, counts, scorers)
        else:
            built = install_selectors(model, shape, counts, self._selectors(shape, counts, knobs), merge=merges(knobs))
        if _learns_from_task(knobs):
            built = _with_scored_blocks(built, knobs)
        return class_query_last(built, shape.prefix_tokens) if has_class_query(shape, plan) else built


def _learns_from_task(knobs: Knobs) -> bool:
    """Recipes older than the knob do not have it."""
    return bool(knobs.get("learn_from") == "task")


def _with_scored_blocks(model: nn.Module, knobs: Knobs) -> nn.Module:
    """Lets the task's gradient reach the scores, in place; outside of training nothing changes."""
    trunk: Any = model.blocks
    for stage in trunk.stages:
        if isinstance(stage.block, RectangularBlock) and isinstance(stage.block.selector, KeepSelected):
            stage.block = TaskScoredBlock(stage.block, stage.block.selector, float(knobs.get("noise", 0.0)))
    return model


def selectors_by_block(student: nn.Module) -> dict[int, KeepSelected]:
    return {block: selector for block, selector in token_selectors(student).items() if isinstance(selector, KeepSelected)}


@torch.no_grad()
def tokens_entering(student: nn.Module, images_B3HW: Tensor, blocks: list[int]) -> dict[int, Tensor]:
    """The tokens (B, N, D) that enter the given blocks, in the student's own pass."""
    seen: dict[int, Tensor] = {}

    def note(block: int, stage: nn.Module, args: tuple[Tensor | SizedTokens, ...]) -> None:
        # Where patches merge, their sizes enter along with them.
        seen[block] = args[0] if isinstance(args[0], Tensor) else args[0].x_BND

    stages: Any = student.blocks
    hooks = [stages.stages[block].register_forward_pre_hook(functools.partial(note, block)) for block in blocks]
    try:
        student(images_B3HW)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _adaptive(
    model: nn.Module, blocks: list[nn.Module], shape: ViTShape, counts: Counts, scorers: Mapping[int, ImpactScorer]
) -> nn.Module:
    """Installs the adaptive trunk: drops inside the blocks, or in front of a block without attention."""
    inside: list[nn.Module] = []
    steps: dict[int, TokenDrop] = {}
    for number, block in enumerate(blocks):
        if number not in scorers:
            inside.append(block)
            continue
        # Until `calibrate`, every image keeps as many patches as the caps allow.
        drop = TokenDrop(cap=counts[number], threshold=-math.inf, num_prefix_tokens=shape.prefix_tokens, scorer=scorers[number])
        # Without attention there are no keys for which the block would have to see the removed patches.
        if isinstance(block.attn, RemovedSublayer):
            inside.append(block)
            steps[number] = drop
        else:
            inside.append(TokenDropBlock(block, drop))
    return install(model, AdaptiveTrunk(inside, steps))
