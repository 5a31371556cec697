"""Patch Slimming, the static form (CVPR 2022, arXiv 2106.02852): every block removes the same patches for all images.

Masks are found from the last block's class token to the first block, each a superset of the next one, by the impact score (`impact`).
A block computes queries, residual and MLP of its own patches and takes keys and values of all that enter (`RectangularBlock`); the last
block computes the class token alone. How many patches a block keeps is found by Algorithm 1 (`block_tuning`), which tunes each block for
its patches; then the whole model is fine-tuned. There is no public code.

Different from the paper, in the defaults too:

- The epsilon of Algorithm 1 is solved onto the budget. It is a relative error and does not match the paper's, whose normalisation is
  unknown. Counts between two measured epsilons reach none of their own.
- With average pooling the recursion of the scores starts from all patches, and the last block computes those that stay.
- The fine-tuning of the whole model is the recipe's.

Ours, as other values of knobs:

- `counts` `pyramid`: those of two knobs; `score`: those with the most impact per multiply-accumulate. No block is tuned alone then.
- `places` `cover`: the patches that stay represent the others best, weighted by their scores (`coverage`), instead of being the best by
  score.
- `paths` `residual`: the score's paths may go around a block; the paper's see only what attention passes on.
- `dead` `merge`: the patches that a block removes join the most similar of those that stay (`layers.merging`).
- `gradual`: while the model is fine-tuned, patches go little by little (`layers.gradual`).

Shapes: B images, N tokens (prefix included), P patches, K patches that stay, D width.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Generator, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autoslim.core.plan import Extra, Plan
from autoslim.core.recipe import Knobs
from autoslim.core.result import EpochReport, Phase
from autoslim.core.shape import ViTShape
from autoslim.errors import UnsupportedModelError
from autoslim.methods.base import Method, ModuleFactory, SlimmedModel, StepContext, freeze
from autoslim.methods.knob import Ranges
from autoslim.methods.layers.gradual import prune_gradually
from autoslim.methods.layers.merging import (
    MERGING,
    MergeInto,
    MergeTokens,
    MergingBlock,
    check_pooling,
    install_merging,
    merges,
    merging_prices,
)
from autoslim.methods.layers.rectangular_block import RectangularBlock, class_query_last, install_rectangular
from autoslim.methods.layers.sublayer import check_parts, check_tokens
from autoslim.methods.layers.token_selector import FirstTokens, FixedTokens, TokenSelector
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.methods.patch_slimming.block_tuning import ladder, restore_blocks
from autoslim.methods.patch_slimming.impact import Chain, find_masks, images_to_measure, tokens_between_blocks
from autoslim.methods.patch_slimming.knobs import RANGES
from autoslim.methods.patch_slimming.pyramid import (
    MAX_DEPTH,
    Counts,
    add_one_patch,
    allocate_by_score,
    canonical_knobs,
    counts_left,
    has_class_query,
    interpolate_ladder,
    nested_rows,
    price_of,
    pyramid,
    rectangular,
    removals,
    with_class_query,
    with_last_block,
)
from autoslim.methods.trainer import DistillationBatch, SharedTrainer, Tensors

_ROUNDS = 3
"""Scores depend on the later blocks' masks, and counts on the scores: how often they are recomputed from each other."""


class PatchSlimming(Method):
    """The solver sets the knob `keep`, the mean share of patches over the blocks; with `pyramid`, `taper` says how steeply it falls."""

    name = "patch_slimming"
    paper = "https://arxiv.org/abs/2106.02852"
    ranges: ClassVar[Ranges] = RANGES

    def check(self, shape: ViTShape) -> None:
        check_tokens(self.name, shape)
        check_parts(self.name, shape)
        if not 2 <= shape.depth <= MAX_DEPTH:
            raise UnsupportedModelError(f"{self.name} needs 2 to {MAX_DEPTH} blocks, the model has {shape.depth}")

    def is_active(self, knob: str, chosen: Knobs) -> bool:
        """`search_share` is that of Algorithm 1, and `taper` is one of two knobs that decide the counts of `pyramid`."""
        needs = {"search_share": "epsilon", "taper": "pyramid"}
        return knob not in needs or chosen["counts"] == needs[knob]

    def repair(self, shape: ViTShape, knobs: Knobs) -> Knobs:
        """Raises UnsupportedModelError for `dead` `merge` where the head's pooling cannot weight merged patches."""
        if "spare" in knobs:
            # Only complete knobs have it: without `class_query` they are older than that knob, and leave the last block whole.
            knobs = {"class_query": False, **knobs}
        repaired = canonical_knobs(shape, super().repair(shape, knobs))
        if not shape.reads_prefix_alone:
            del repaired["class_query"]
        if merges(repaired):
            check_pooling(f"{self.name} with dead 'merge'", shape)
        return repaired

    def expect(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> Plan:
        """The counts of the knobs; `score` and `epsilon` find others later that fill the same budget up to one patch."""
        return self.plan_of(shape, plan, knobs, pyramid(shape, knobs))

    def plan_of(self, shape: ViTShape, plan: Plan, knobs: Knobs, counts: Counts) -> Plan:
        """What a model with these counts computes; `plan` is what earlier steps have left."""
        # Recipes that are older than the knob leave the last block to their own `class_query`.
        if knobs.get("class_query", False):
            plan = with_class_query(shape, plan)
        return rectangular(shape, plan, counts, self.extras(shape, knobs, counts))

    def costlier(self, shape: ViTShape, knobs: Knobs, ranges: Ranges) -> Iterator[Knobs]:
        return iter(add_one_patch(shape, knobs))

    def extras(self, shape: ViTShape, knobs: Knobs, counts: Counts) -> tuple[Extra, ...]:
        """The price of what happens to patches at run time: of merging them; selecting has none, as the static form has fixed them."""
        return merging_prices(shape, removals(shape, counts)) if merges(knobs) else ()

    def priced_modules(self) -> dict[str, ModuleFactory]:
        return {MERGING: lambda shape, tokens, left: MergeTokens(left, shape.prefix_tokens)}

    def shared_settings(self, shape: ViTShape, knobs: Knobs) -> Knobs | None:
        if knobs["counts"] == "epsilon":
            # All that Algorithm 1 depends on: trials that differ in other knobs share its result.
            return {name: knobs[name] for name in ("search_share", "paths", "places") if name in knobs}
        return {}

    def shared_share(self, settings: Knobs) -> float:
        """The share of Algorithm 1; collecting the images to measure on takes no training."""
        return float(settings.get("search_share", 0.0))

    def prepare(self, shared_trainer: SharedTrainer, settings: Knobs) -> Generator[EpochReport, None, Tensors]:
        """Returns the `images` that scores are measured on, in half precision, and with `epsilon` the ladder of Algorithm 1."""
        images_B3HW = torch.cat(list(shared_trainer.images(images_to_measure(shared_trainer.shape))))
        shared = {"images": images_B3HW.half()}
        if "search_share" in settings:
            shared |= yield from ladder(
                shared_trainer,
                images_B3HW,
                paths=settings["paths"],
                places=settings.get("places", "score"),
                share=settings["search_share"],
            )
        else:
            yield EpochReport(epoch=0.0, phase=Phase.SHARED, metrics={"images": float(len(images_B3HW))})
        return shared

    def attach(self, model: nn.Module, context: StepContext, images_B3HW: Tensor) -> nn.Module:
        """Prunes at once, as nothing is trained before pruning. Scores are measured on the shared images, not on `images_B3HW`."""
        # A model whose widths were pruned and not trained since would mislead the scores; places commute with widths.
        shape, knobs = context.shape, context.knobs
        found = self.decide(context.to_measure(model), context, measured_tokens(model, context))
        # Algorithm 1 has tuned them at the dense widths.
        if found.place is not None and not context.plan.narrowed(shape):
            assert context.shared is not None
            restore_blocks(blocks_of(model), context.shared, found.place, found.counts, shape.patches)
        freeze(model)
        rows = nested_rows(found.chain.masks, shape.prefix_tokens)
        selectors: list[TokenSelector] = [FixedTokens(index_K) for index_K in rows]
        student = install_selectors(model, shape, found.counts, selectors, merge=merges(knobs))
        return class_query_last(student, shape.prefix_tokens) if knobs.get("class_query", False) else student

    def decide(self, model: nn.Module, context: StepContext, tokens: list[Tensor]) -> Decision:
        """The counts within the budget, and masks with these counts; `tokens` are `measured_tokens`."""
        assert context.shared is not None
        shape, knobs = context.shape, context.knobs
        # DPS has no knob `places`: an image's own patches are chosen by score.
        find = functools.partial(
            find_masks, blocks_of(model), tokens, shape, paths=knobs["paths"], places=knobs.get("places", "score")
        )
        plan_of = functools.partial(self.plan_of, shape, context.plan, knobs)
        price = price_of(shape, plan_of, functools.partial(context.constraints.fits, shape))
        counts, place = pyramid(shape, knobs), None
        if knobs["counts"] == "epsilon":
            # Algorithm 1 has run for a few epsilons only; the counts that fill the budget are between two of them.
            counts, place = interpolate_ladder(shape, context.shared["counts"], price, context.budget)
        chain = find(counts)
        # Better counts change the masks, and these the scores that the counts follow from.
        for _ in range(_ROUNDS if knobs["counts"] == "score" else 0):
            counts = allocate_by_score(shape, chain.scores, price, context.budget)
            chain = find(counts)
        return Decision(counts=counts, chain=chain, place=place)

    def loss(self, knobs: Knobs, batch: DistillationBatch) -> Tensors:
        """Unused: nothing is trained before pruning."""
        return {"loss": batch.task_loss}

    def finetune_loss(self, knobs: Knobs, batch: DistillationBatch) -> Tensors:
        prune_gradually(batch.student, knobs, batch.progress)
        return super().finetune_loss(knobs, batch)

    def prune(self, student: nn.Module, context: StepContext) -> SlimmedModel:
        counts = counts_in(student, context.shape)
        plan = self.plan_of(context.shape, context.plan, context.knobs, counts)
        student.requires_grad_(True)
        return SlimmedModel(model=student, plan=plan, knobs=context.knobs)

    def build(self, model: nn.Module, shape: ViTShape, plan: Plan, knobs: Knobs) -> nn.Module:
        counts = counts_of_plan(shape, plan)
        selectors: list[TokenSelector] = [FixedTokens.empty(count + shape.prefix_tokens) for count in counts]
        built = install_selectors(model, shape, counts, selectors, merge=merges(knobs))
        return class_query_last(built, shape.prefix_tokens) if has_class_query(shape, plan) else built


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    """How many patches each block keeps, and which. `place` is where in Algorithm 1's ladder the counts are; None: it has not run."""

    counts: Counts
    chain: Chain
    place: float | None


@torch.no_grad()
def measured_tokens(model: nn.Module, context: StepContext) -> list[Tensor]:
    """`tokens_between_blocks` of the shared images in the model to measure; its training mode is left as it was."""
    assert context.shared is not None
    model = context.to_measure(model)
    training, dtype = model.training, next(model.parameters()).dtype
    tokens = tokens_between_blocks(model.eval(), context.shared["images"].to(dtype))
    model.train(training)
    return tokens


def install_selectors(
    model: nn.Module, shape: ViTShape, counts: Counts, selectors: list[TokenSelector], *, merge: bool = False
) -> nn.Module:
    """Gives every block that computes fewer patches than enter it its selector; one that removes nothing stays timm's own.

    With `merge`, the patches that are not selected join those that are.
    """
    removing = {block: selectors[block] for block in removals(shape, counts)}
    if merge:
        return install_merging(model, shape, blocks_of(model), removing, inside=True)
    return install_rectangular(model, blocks_of(model), removing)


def token_selectors(model: nn.Module) -> dict[int, TokenSelector]:
    """The selectors that `install_selectors` has added, by block."""
    found: dict[int, TokenSelector] = {}
    trunk: Any = model.blocks
    for number, stage in enumerate(trunk.stages):
        part = stage.pre_block
        if isinstance(stage.block, RectangularBlock):
            part = stage.block.selector
        elif isinstance(stage.block, MergingBlock):
            part = stage.block.merge
        selector = part.selector if isinstance(part, MergeInto) else part
        # A class query in the last block is no selection of patches.
        if isinstance(selector, TokenSelector) and not isinstance(selector, FirstTokens):
            found[number] = selector
    return found


def counts_in(model: nn.Module, shape: ViTShape) -> Counts:
    """The patches that each block of a model with fixed selectors computes."""
    kept = {}
    for number, selector in token_selectors(model).items():
        assert isinstance(selector, FixedTokens)
        kept[number] = selector.index.numel() - shape.prefix_tokens
    return counts_left(shape, kept)


def counts_of_plan(shape: ViTShape, plan: Plan) -> Counts:
    """The patches that each block of a finished plan computes."""
    # A class query leaves the last block none; its own count is that of the block before.
    counts = [block.tokens_mlp - shape.prefix_tokens for block in plan.blocks]
    return with_last_block(shape, counts[:-1]) if shape.reads_prefix_alone else counts
