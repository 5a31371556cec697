"""Token merging, trained and solved onto a budget: patches that go join the most similar of those that stay.

The idea of merging by similarity, and of keys that count as often as their sizes, is ToMe's (ICLR 2023, arXiv 2210.09461). Ours:

- Which patches go and what they join are two questions. Those that stay are spread over the content of the image, and each of the
  others joins the nearest of all that stay; ToMe deals the patches into two halves, and only one half can be joined.
- Patches merge as they enter a block. The block still reads the keys and values of those that go, and computes queries, residual and
  MLP of those that stay: rectangular attention, as in Patch Slimming. ToMe merges between attention and MLP.
- Nearness is the cosine of the normalised tokens; ToMe's is that of the keys, averaged over the heads.
- How many stay is free in every quarter of the depth, solved onto the FLOPs budget and fine-tuned with the recipe's loss.
- With average pooling the head weights tokens by their sizes.

Nothing is trained before pruning. The merging is in `layers.merging`, the counts are in `counts`, the choice is in `spread`.

Shapes: B batch, N tokens (prefix included), P patches, K patches that stay, D width, L blocks.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from autoslim.core.plan import Extra, Plan
from autoslim.core.recipe import Knobs
from autoslim.core.result import EpochReport, Phase
from autoslim.core.shape import ViTShape
from autoslim.errors import UnsupportedModelError
from autoslim.methods.base import Method, ModuleFactory, SlimmedModel, StepContext, freeze
from autoslim.methods.knob import Knob, Ranges
from autoslim.methods.layers.merging import MERGING, MergeTokens, check_pooling, install_merging, merging_prices
from autoslim.methods.layers.sublayer import check_parts, check_tokens
from autoslim.methods.layers.token_selector import FixedTokens, TokenSelector
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.methods.merge.counts import KEEP, canonical_counts, one_patch_more, patch_counts
from autoslim.methods.merge.spread import CHOICE, ChooseTokens, SpreadTokens, choice_price, covering_masks
from autoslim.methods.patch_slimming.impact import images_to_measure
from autoslim.methods.patch_slimming.method import counts_of_plan, measured_tokens
from autoslim.methods.patch_slimming.pyramid import MAX_DEPTH, Counts, nested_rows, rectangular, removals
from autoslim.methods.trainer import DistillationBatch, SharedTrainer, Tensors

PLACES = ("image", "fixed")

_DEFAULT = (0.75, 0.45, 0.2, 0.1)
"""Shares that fall steeply at first, which did best straight after pruning at both 50 % and 35 % of the FLOPs (ViT on CIFAR-10)."""


class Merge(Method):
    """The solver sets the knobs `keep_1` to `keep_4`, the share of the patches that is left behind each quarter of the blocks."""

    name = "merge"
    paper = "https://arxiv.org/abs/2210.09461"
    ranges: ClassVar[Ranges] = {
        **{
            name: Knob(
                kind="float",
                help=f"share of the patches left behind quarter {quarter} of the blocks",
                default=default,
                low=0.0,
                high=1.0,
                cost_sign=1,
            )
            for quarter, (name, default) in enumerate(zip(KEEP, _DEFAULT, strict=True), 1)
        },
        "places": Knob(
            kind="choice",
            help="which patches stay: chosen in each image, or the same places in every image",
            default="image",
            choices=PLACES,
        ),
        "spare": Knob(
            kind="int",
            help="blocks that leave one patch more, as bits, block 0 lowest; the solver's",
            default=0,
            low=0,
            high=2.0**MAX_DEPTH,
            searched=False,
        ),
    }

    def check(self, shape: ViTShape) -> None:
        check_tokens(self.name, shape)
        check_parts(self.name, shape)
        check_pooling(self.name, shape)
        if not 2 <= shape.depth <= MAX_DEPTH:
            raise UnsupportedModelError(f"{self.name} needs 2 to {MAX_DEPTH} blocks, the model has {shape.depth}")

    def repair(self, shape: ViTShape, knobs: Knobs) -> Knobs:
        return canonical_counts(shape, super().repair(shape, knobs))

    def expect(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> Plan:
        counts = patch_counts(shape, knobs)
        return rectangular(shape, plan, counts, _extras(shape, knobs, counts))

    def costlier(self, shape: ViTShape, knobs: Knobs, ranges: Ranges) -> Iterator[Knobs]:
        return one_patch_more(shape, knobs, ranges)

    def shared_settings(self, shape: ViTShape, knobs: Knobs) -> Knobs | None:
        return {} if knobs["places"] == "fixed" else None

    def prepare(self, shared_trainer: SharedTrainer, settings: Knobs) -> Generator[EpochReport, None, Tensors]:
        """Returns the `images` that fixed places are found on, in half precision."""
        images_B3HW = torch.cat(list(shared_trainer.images(images_to_measure(shared_trainer.shape))))
        yield EpochReport(epoch=0.0, phase=Phase.SHARED, metrics={"images": float(len(images_B3HW))})
        return {"images": images_B3HW.half()}

    def attach(self, model: nn.Module, context: StepContext, images_B3HW: Tensor) -> nn.Module:
        """Prunes at once, as nothing is trained before. Fixed places are found on the shared images, not on `images_B3HW`."""
        shape, knobs = context.shape, context.knobs
        counts = patch_counts(shape, knobs)
        selectors = _selectors(shape, knobs, counts)
        if knobs["places"] == "fixed":
            rows = nested_rows(covering_masks(measured_tokens(model, context), shape, counts), shape.prefix_tokens)
            selectors = [FixedTokens(index_K) for index_K in rows]
        freeze(model)
        return _install(model, shape, counts, selectors)

    def loss(self, knobs: Knobs, batch: DistillationBatch) -> Tensors:
        """Unused: nothing is trained before pruning."""
        return {"loss": batch.task_loss}

    def prune(self, student: nn.Module, context: StepContext) -> SlimmedModel:
        student.requires_grad_(True)
        plan = self.expect(context.shape, context.plan, context.knobs)
        return SlimmedModel(model=student, plan=plan, knobs=context.knobs)

    def build(self, model: nn.Module, shape: ViTShape, plan: Plan, knobs: Knobs) -> nn.Module:
        counts = counts_of_plan(shape, plan)
        return _install(model, shape, counts, _selectors(shape, knobs, counts))

    def priced_modules(self) -> dict[str, ModuleFactory]:
        return {
            CHOICE: lambda shape, tokens, left: ChooseTokens(left, shape.prefix_tokens),
            MERGING: lambda shape, tokens, left: MergeTokens(left, shape.prefix_tokens),
        }


def _extras(shape: ViTShape, knobs: Knobs, counts: Counts) -> tuple[Extra, ...]:
    removed = removals(shape, counts)
    merging = merging_prices(shape, removed)
    if knobs["places"] == "fixed":
        return merging
    choices = (choice_price(shape, block, enter=enter, stay=stay) for block, (enter, stay) in removed.items())
    return (*choices, *merging)


def _selectors(shape: ViTShape, knobs: Knobs, counts: Counts) -> list[TokenSelector]:
    """A selector for each block; fixed places are found, or loaded, later."""
    if knobs["places"] == "image":
        return [SpreadTokens(count + shape.prefix_tokens, shape.prefix_tokens) for count in counts]
    return [FixedTokens.empty(count + shape.prefix_tokens) for count in counts]


def _install(model: nn.Module, shape: ViTShape, counts: Counts, selectors: list[TokenSelector]) -> nn.Module:
    merging = {block: selectors[block] for block in removals(shape, counts)}
    return install_merging(model, shape, blocks_of(model), merging, inside=True)
