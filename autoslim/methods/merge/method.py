"""Token merging, trained and solved onto a budget: patches that go join the most similar of those that stay.

The idea of merging by similarity, and of keys that count as often as their sizes, is ToMe's (ICLR 2023, arXiv 2210.09461). Ours:

- Which patches go and what they join are two questions. Those that stay are spread over the content of the image, and each of the
  others joins the nearest of all that stay; ToMe deals the patches into two halves, and only one half can be joined.
- Patches merge as they enter a block. The block still reads the keys and values of those that go, and computes queries, residual and
  MLP of those that stay: rectangular attention, as in Patch Slimming. ToMe merges between attention and MLP.
- Nearness is the cosine of the normalised tokens; ToMe's is that of the keys, averaged over the heads.
- How many stay is free in every quarter of the depth, solved onto the FLOPs budget and fine-tuned with the recipe's loss.
- With average pooling the head weights tokens by their sizes.

As options, off by default, what later papers add: `criteria` `several` and `consistency`, those of MCTF (`matching`, `consistency`), and
an `embedding` that is `learned`, DTEM's idea (`matching`, `soft_merging`), which is trained before pruning; without it nothing is.

The merging is in `layers.merging`, the counts are in `counts`, the choice is in `spread`, the price in `prices`.

Shapes: B batch, N tokens (prefix included), P patches, K patches that stay, D width, L blocks.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs
from autoslim.core.result import EpochReport, Phase
from autoslim.core.shape import ViTShape
from autoslim.errors import UnsupportedModelError
from autoslim.methods.base import Method, ModuleFactory, SlimmedModel, StepContext, freeze
from autoslim.methods.knob import Ranges
from autoslim.methods.layers.merging import MergeInto, MergingBlock, check_pooling, install_merges
from autoslim.methods.layers.sublayer import check_parts, check_tokens
from autoslim.methods.layers.token_selector import FixedTokens, TokenSelector
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.methods.merge.consistency import consistency_loss
from autoslim.methods.merge.counts import canonical_counts, one_patch_more, patch_counts
from autoslim.methods.merge.knobs import RANGES
from autoslim.methods.merge.matching import InformedMergingBlock, MatchedMerge, Matching
from autoslim.methods.merge.prices import is_embedded, is_informed, merge_prices, priced_modules
from autoslim.methods.merge.soft_merging import harden, soften
from autoslim.methods.merge.spread import SpreadTokens, covering_masks
from autoslim.methods.patch_slimming.impact import images_to_measure, tokens_between_blocks
from autoslim.methods.patch_slimming.method import counts_of_plan, measured_tokens
from autoslim.methods.patch_slimming.pyramid import MAX_DEPTH, Counts, nested_rows, rectangular, removals
from autoslim.methods.trainer import DistillationBatch, SharedTrainer, Tensors

_OF_EMBEDDINGS = ("softness", "train_share", "embedding_lr")
"""Knobs of the training of embeddings."""

_OF_IMAGES = ("embedding", "consistency")
"""Knobs that need patches that are chosen in each image, as many as asked for."""


class Merge(Method):
    """The solver sets the knobs `keep_1` to `keep_4`, the share of the patches that is left behind each quarter of the blocks."""

    name = "merge"
    paper = "https://arxiv.org/abs/2210.09461"
    ranges: ClassVar[Ranges] = RANGES

    def check(self, shape: ViTShape) -> None:
        check_tokens(self.name, shape)
        check_parts(self.name, shape)
        check_pooling(self.name, shape)
        if not 2 <= shape.depth <= MAX_DEPTH:
            raise UnsupportedModelError(f"{self.name} needs 2 to {MAX_DEPTH} blocks, the model has {shape.depth}")

    def is_active(self, knob: str, chosen: Knobs) -> bool:
        if knob in _OF_EMBEDDINGS:
            return chosen["places"] == "image" and is_embedded(chosen)
        return knob not in _OF_IMAGES or bool(chosen["places"] == "image")

    def repair(self, shape: ViTShape, knobs: Knobs) -> Knobs:
        """Raises UnsupportedModelError for an option that this model cannot have, naming it."""
        repaired = canonical_counts(shape, super().repair(shape, knobs))
        _check_options(shape, repaired)
        return repaired

    def expect(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> Plan:
        counts = patch_counts(shape, knobs)
        return rectangular(shape, plan, counts, merge_prices(shape, plan, knobs, counts))

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
        """Fixed places are found on the shared images, and embeddings start from `images_B3HW`.

        Prunes at once, unless there are embeddings to train.
        """
        shape, knobs = context.shape, context.knobs
        counts = patch_counts(shape, knobs)
        selectors = _selectors(shape, knobs, counts)
        if knobs["places"] == "fixed":
            rows = nested_rows(covering_masks(measured_tokens(model, context), shape, counts), shape.prefix_tokens)
            selectors = [FixedTokens(index_K) for index_K in rows]
        tokens = _entering(context.to_measure(model), images_B3HW) if is_embedded(knobs) else []
        freeze(model)
        student = _install(model, shape, knobs, counts, selectors)
        if not is_embedded(knobs):
            return student
        for block, matching in _matchings(student, removals(shape, counts)).items():
            matching.to(tokens[block]).start_from(tokens[block], shape.prefix_tokens)
        return soften(student, knobs["softness"])

    def learning_rates(self, student: nn.Module, knobs: Knobs) -> dict[str, float]:
        return {"matching.weight": knobs["embedding_lr"]} if is_embedded(knobs) else {}

    def loss(self, knobs: Knobs, batch: DistillationBatch) -> Tensors:
        """That of the embeddings' training: the task's, of the soft form, in which they alone are trained."""
        return {"loss": batch.task_loss}

    def finetune_loss(self, knobs: Knobs, batch: DistillationBatch) -> Tensors:
        weight = float(knobs.get("consistency", 0.0))
        return consistency_loss(batch, weight) if weight > 0 else super().finetune_loss(knobs, batch)

    def prune(self, student: nn.Module, context: StepContext) -> SlimmedModel:
        model = harden(student) if is_embedded(context.knobs) else student
        model.requires_grad_(True)
        # No gradient passes through a choice: embeddings stay as their own training has left them.
        for part in model.modules():
            if isinstance(part, Matching):
                freeze(part)
        plan = self.expect(context.shape, context.plan, context.knobs)
        return SlimmedModel(model=model, plan=plan, knobs=context.knobs)

    def build(self, model: nn.Module, shape: ViTShape, plan: Plan, knobs: Knobs) -> nn.Module:
        counts = counts_of_plan(shape, plan)
        return _install(model, shape, knobs, counts, _selectors(shape, knobs, counts))

    def priced_modules(self) -> dict[str, ModuleFactory]:
        return priced_modules()


def _check_options(shape: ViTShape, knobs: Knobs) -> None:
    if is_informed(knobs) and any(block.qk_norm for block in shape.blocks):
        raise UnsupportedModelError(
            "merge with criteria 'several' cannot price the queries of a model that normalises them; allowed: 'likeness'"
        )
    if is_embedded(knobs) and shape.pool == "max":
        raise UnsupportedModelError("merge with embedding 'learned' needs pooling 'token' or 'avg'; this model's is 'max'")
    for option, is_on in (
        ("embedding 'learned'", is_embedded(knobs)),
        ("consistency above 0", float(knobs.get("consistency", 0.0)) > 0),
    ):
        if is_on and not shape.classifiers:
            raise UnsupportedModelError(f"merge with {option} needs a classifier; this model returns features")


def _selectors(shape: ViTShape, knobs: Knobs, counts: Counts) -> list[TokenSelector]:
    """A selector for each block; fixed places are found, or loaded, later."""
    if knobs["places"] == "image":
        return [SpreadTokens(count + shape.prefix_tokens, shape.prefix_tokens) for count in counts]
    return [FixedTokens.empty(count + shape.prefix_tokens) for count in counts]


def _install(model: nn.Module, shape: ViTShape, knobs: Knobs, counts: Counts, selectors: list[TokenSelector]) -> nn.Module:
    embedded, informed, prefix = is_embedded(knobs), is_informed(knobs), shape.prefix_tokens
    merges: dict[int, MergeInto] = {}
    for block in removals(shape, counts):
        if embedded or informed:
            matching = Matching(shape.dim, embedded=embedded, informed=informed)
            merges[block] = MatchedMerge(selectors[block], prefix, matching)
        else:
            merges[block] = MergeInto(selectors[block], prefix)
    return install_merges(model, shape, blocks_of(model), merges, inside=InformedMergingBlock if informed else MergingBlock)


def _matchings(model: nn.Module, blocks: Iterable[int]) -> dict[int, Matching]:
    """By the blocks that merge, in rising order, as the model has them."""
    return dict(zip(blocks, (part for part in model.modules() if isinstance(part, Matching)), strict=True))


def _entering(model: nn.Module, images_B3HW: Tensor) -> list[Tensor]:
    """The tokens (B, N, D) that enter each block; the training mode is left as it was."""
    training = model.training
    tokens = tokens_between_blocks(model.eval(), images_B3HW)
    model.train(training)
    return tokens
