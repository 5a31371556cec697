"""SiT, self-slimmed ViT (ECCV 2022, arXiv 2111.12624): modules mix tokens into fewer, and training restores the teacher's from them.

A token slimming module (TSM) in front of a block mixes all patches into fewer, with weights that it computes from them. Feature
recalibration distillation (FRD) trains everything, to the end of the training: the labels' loss, plus `token_weight` times the mean over
the blocks of the squared error between the teacher's patches and those that a reverse module (RTSM) restores behind each block from the
first slimming on, plus `logit_weight` times KL(teacher || student). The teacher is the dense model. Where a module slims the tokens
behind a block, that block's reverse module restores them from what the module leaves, as in the released code. The training form and the
pruned form give the same logits, bit by bit: the reverse modules run beside the trunk, accompany the fine-tuning, and are no part of the
finished model.

`logit_weight` and `temperature` take the place of the recipe's `distillation` and `temperature`, which FRD does not read.

Ours, and different from the paper and its code:

- Counts are free per stage, so that any budget can be met; they start from the code's halves. One token more than the last stage's may be
  kept for some blocks, to fill a budget.
- Learning-rate schedule, weight decay, average of weights and augmentation are the recipe's.

The paper says nothing of the start of its modules; it is its code's, small random weights.

Ours as options: `start: fitted` fits the modules to some images (`token_slimming`), because random ones, which the paper trains for 125
epochs, learn little in a few; `token_error: relative` divides a block's squared error by the variance of the teacher's patches there, so
that its weight means the same for every model; `slots: image` seeds made tokens by the image's own patches (`seeded_slimming`); with
`sizes: patches` made tokens carry their sizes, as merged ones do (`layers.merging`), and a key counts as often as the patches that go
into it (`patch_mixture`); `recalibrate: first` removes the reverse modules after `train_share` of the epochs and fine-tunes the rest of
them with the recipe's own loss.

The modules know the number of patches, so that a slimmed model takes images of one size.

Shapes: B batch, N tokens (prefix included), P patches, K patches that are made of them, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs
from autoslim.core.shape import ViTShape
from autoslim.errors import UnsupportedModelError
from autoslim.methods.base import Method, ModuleFactory, SlimmedModel, StepContext
from autoslim.methods.knob import Ranges, complete
from autoslim.methods.layers.groups import SizedTokens
from autoslim.methods.layers.sublayer import check_tokens
from autoslim.methods.layers.token_selector import FirstTokens
from autoslim.methods.layers.token_trunk import blocks_of, pre_blocks_of
from autoslim.methods.sit.knobs import RANGES
from autoslim.methods.sit.recalibration import ReverseModules, recalibration_losses, record_outputs
from autoslim.methods.sit.seeded_slimming import SEEDED_SLIMMING, SeededSlimming, init_seeded
from autoslim.methods.sit.stages import may_spare, patches_behind, patches_of_blocks, ratio_of, slimming_steps, stages
from autoslim.methods.sit.token_slimming import (
    TOKEN_SLIMMING,
    ReverseTokenSlimming,
    TokenSlimming,
    init_random,
    init_reverse,
    init_slimming,
)
from autoslim.methods.sit.trunks import check_sizes, install_recalibrated, install_slimmed, is_sized
from autoslim.methods.trainer import DISTILLATION, DistillationBatch, Tensors

_WEIGHED_BY = {"temperature": "logit_weight", "reverse_lr": "token_weight", "token_error": "token_weight"}  # nosec B105 - tokens of an image
"""Knobs that have no effect where the weight of their loss is 0."""

_RECALIBRATED_FIRST = ("train_share", "tune_lr")
"""Knobs of the option to fine-tune without reverse modules."""

_EARLIER: Knobs = {"slots": "learned", "sizes": "one", "start": "fitted", "recalibrate": "first", "token_error": "plain"}  # nosec B105 - tokens of an image
"""What recipes do that are older than these knobs."""

_CALIBRATION = 64
"""Images that the modules are initialised on."""


class SiT(Method):
    """Up to three stages: in front of block `stage_layer_k`, the patches are mixed into the share `keep_ratio_k` of the image's."""

    name = "sit"
    paper = "https://arxiv.org/abs/2111.12624"
    ranges: ClassVar[Ranges] = RANGES

    def check(self, shape: ViTShape) -> None:
        check_tokens(self.name, shape)
        if shape.depth < 2:
            raise UnsupportedModelError(f"SiT needs at least 2 blocks, the model has {shape.depth}")
        if any(block.positions for block in shape.blocks):
            raise UnsupportedModelError("SiT makes tokens that have no place in the image, which this model's attention asks for")

    def is_active(self, knob: str, chosen: Knobs) -> bool:
        if knob in _WEIGHED_BY:
            return bool(chosen[_WEIGHED_BY[knob]] > 0)
        if knob in _RECALIBRATED_FIRST:
            return not _accompanies(chosen)
        if knob == "start":
            # What the image seeds has a start of its own.
            return bool(chosen["slots"] == "learned")
        if knob == "sharpness":
            return bool(chosen["slots"] == "image" or chosen["start"] == "fitted")
        number = knob.rpartition("_")[2]
        return not number.isdigit() or int(number) <= chosen["stages"]

    def repair(self, shape: ViTShape, knobs: Knobs) -> Knobs:
        """Layers in rising, ratios in falling order; of two stages on one block the harder one stays; one that slims nothing goes.

        Each stage makes fewer patches than the one before. Where none slims, one that keeps all is left, and has no module.

        Raises:
            UnsupportedModelError: for `sizes` where attention takes no mask, or the head's pooling cannot weight tokens.
        """
        if "spare_until" in knobs:
            # Only complete knobs have it: what is missing then is younger than the recipe.
            knobs = {**{name: value for name, value in _EARLIER.items() if name in self.ranges}, **knobs}
        full = complete(self.ranges, knobs, depth=shape.depth)
        if is_sized(full):
            check_sizes(shape)
        numbers = range(1, full["stages"] + 1)
        layers = sorted(full[f"stage_layer_{k}"] for k in numbers)
        ratios = sorted((full[f"keep_ratio_{k}"] for k in numbers), reverse=True)
        # With layers rising and ratios falling, the dictionary keeps the smaller of two ratios on one layer.
        merged = dict(zip(layers, ratios, strict=True))
        full["stages"] = len(merged)
        for k, (layer, ratio) in enumerate(merged.items(), 1):
            full[f"stage_layer_{k}"], full[f"keep_ratio_{k}"] = layer, ratio
        # Ratios that round to the same counts become one ratio, so that equal plans are equal recipes.
        made = stages(shape, full) or {layers[0]: shape.patches}
        full["stages"] = len(made)
        for k, (layer, patches) in enumerate(made.items(), 1):
            full[f"stage_layer_{k}"] = layer
            # Where an image has many patches, the ratio of a few of them can be below the range.
            low = self.ranges[f"keep_ratio_{k}"].low
            assert low is not None
            full[f"keep_ratio_{k}"] = max(ratio_of(patches, shape), low)
        if not may_spare(shape, full, full["spare_until"]):
            full["spare_until"] = 0
        return {name: full[name] for name in self.ranges if self.is_active(name, full)}

    def expect(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> Plan:
        """Raises UnsupportedModelError where an earlier step has pruned tokens: the teacher's could not be restored from the rest."""
        if any(block.tokens_kv < shape.tokens for block in plan.blocks):
            raise UnsupportedModelError("SiT needs all tokens of the image; an earlier step of the recipe has pruned some")
        prices = [
            _kind(knobs).price(dim=shape.dim, patches=patches, made=made, block=block, sized=is_sized(knobs))
            for block, (patches, made) in slimming_steps(shape, knobs).items()
        ]
        tokens = tuple(patches + shape.prefix_tokens for patches in patches_of_blocks(shape, knobs))
        return plan.with_tokens(tokens).replace(extras=(*plan.extras, *prices))

    def costlier(self, shape: ViTShape, knobs: Knobs, ranges: Ranges) -> Iterator[Knobs]:
        """One patch more at one stage, or one that the last stage makes for some blocks only."""
        made = list(stages(shape, knobs).values())
        for k, (before, patches) in enumerate(zip([shape.patches, *made], made, strict=False), 1):
            name, ratio = f"keep_ratio_{k}", ratio_of(patches + 1, shape)
            high = ranges[name].high
            assert high is not None
            # `ratio_of` is half a patch above the exact ratio, and only the exact one has to be within the range.
            if patches + 1 < before and ratio <= high + 0.5 / shape.patches:
                yield {**knobs, name: ratio}
        if not knobs["spare_until"]:
            yield from ({**knobs, "spare_until": block} for block in range(2, shape.depth) if may_spare(shape, knobs, block))

    def attach(self, model: nn.Module, context: StepContext, images_B3HW: Tensor) -> nn.Module:
        """Initialises the modules: front to back, each on the tokens that the modules before it make of `images_B3HW`, or at random."""
        shape, knobs = context.shape, context.knobs
        model.requires_grad_(True)
        if knobs.get("start", _EARLIER["start"]) == "random":
            student = self._slimmed(model, shape, knobs)
            reverse = self._reverse(shape, context.plan, knobs).to(images_B3HW)
            for part in (*pre_blocks_of(student).values(), *reverse.values()):
                init_random(part)
            return install_recalibrated(student, shape, knobs, reverse).train(model.training)
        training = model.training
        model.eval()
        x_B3HW = images_B3HW[:_CALIBRATION]
        # Before the modules are installed: `_slimmed` changes this model in place.
        teacher_tokens = _outputs(model, x_B3HW)
        student = self._slimmed(model, shape, knobs)
        steps: dict[int, Any] = pre_blocks_of(student)
        rows, columns = (torch.arange(size) for size in shape.grid)
        places_P2 = torch.cartesian_prod(rows, columns)
        for block, made in stages(shape, knobs).items():
            x_BPD = _entering(steps[block], student, x_B3HW)[:, shape.prefix_tokens :]
            if knobs["slots"] == "image":
                init_seeded(steps[block], places_P2, sharpness=knobs["sharpness"])
                # A made token is where its seed was. Places are chosen one after the other, on the CPU.
                places_P2 = places_P2[steps[block].seed.cpu()]
            else:
                init_slimming(steps[block], x_BPD, made, sharpness=knobs["sharpness"])
        reverse = self._reverse(shape, context.plan, knobs).to(x_B3HW)
        for (index, module), x_BND in _behind(reverse, _outputs(student, x_B3HW)):
            x_BKD, target_BPD = x_BND[:, shape.prefix_tokens :], teacher_tokens[index][:, shape.prefix_tokens :]
            init_reverse(module, x_BKD, target_BPD)
        return install_recalibrated(student, shape, knobs, reverse).train(training)

    @staticmethod
    def _reverse(shape: ViTShape, plan: Plan, knobs: Knobs) -> ReverseModules:
        """The reverse modules without weights; none without a token loss, which alone would train them."""
        made = {}
        for block, patches in enumerate(patches_behind(shape, knobs)):
            # A block behind which every patch is left needs no restoring: its tokens are compared as they are.
            last_alone = block == shape.depth - 1 and plan.blocks[block].tokens_q < plan.blocks[block].tokens_kv
            if knobs["token_weight"] and patches < shape.patches and not last_alone:
                made[block] = ReverseTokenSlimming(shape.dim, patches, shape.patches)
        normalised = knobs.get("token_error", _EARLIER["token_error"]) == "relative"
        return ReverseModules(made, num_prefix_tokens=shape.prefix_tokens, normalised=normalised)

    def companion(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> nn.Module | None:
        """The reverse modules, where the fine-tuning has them."""
        return self._reverse(shape, plan, knobs) if _accompanies(knobs) else None

    def train_share(self, knobs: Knobs) -> float:
        return 0.0 if _accompanies(knobs) else super().train_share(knobs)

    def needs_rest(self, knobs: Knobs) -> bool:
        """The modules are initialised on the model as it is."""
        return True

    def replaced_settings(self, knobs: Knobs) -> frozenset[str]:
        """The recipe's distillation, where FRD's own takes its place to the end."""
        return DISTILLATION if _accompanies(knobs) else frozenset()

    def finetune_rate(self, knobs: Knobs) -> float:
        return 1.0 if _accompanies(knobs) else float(knobs["tune_lr"])

    def finetune_rates(self, model: nn.Module, knobs: Knobs) -> dict[str, float]:
        return self.learning_rates(model, knobs) if _accompanies(knobs) else {}

    def priced_modules(self) -> dict[str, ModuleFactory]:
        def slimming(shape: ViTShape, tokens: int, left: int) -> nn.Module:
            return TokenSlimming(shape.dim, left - shape.prefix_tokens, shape.prefix_tokens)

        def seeded(shape: ViTShape, tokens: int, left: int) -> nn.Module:
            return SeededSlimming(shape.dim, left - shape.prefix_tokens, shape.prefix_tokens)

        return {TOKEN_SLIMMING: slimming, SEEDED_SLIMMING: seeded}

    def learning_rates(self, student: nn.Module, knobs: Knobs) -> dict[str, float]:
        rates = {}
        for name, _ in student.named_parameters():
            if ".pre_block." in name:
                rates[name] = float(knobs["slimming_lr"])
            elif ".reverse." in name or name.startswith("companion."):
                rates[name] = float(knobs["reverse_lr"])
        return rates

    def loss(self, knobs: Knobs, batch: DistillationBatch) -> Tensors:
        """The paper's FRD: label loss + token_weight * MSE + logit_weight * KL(teacher || student)."""
        trunk: Any = batch.student.blocks
        return recalibration_losses(trunk.reverse, knobs, batch)

    def finetune_loss(self, knobs: Knobs, batch: DistillationBatch) -> Tensors:
        """FRD, where the reverse modules accompany the fine-tuning."""
        if not _accompanies(knobs):
            return super().finetune_loss(knobs, batch)
        reverse: Any = batch.student.companion
        return recalibration_losses(reverse, knobs, batch)

    def prune(self, student: nn.Module, context: StepContext) -> SlimmedModel:
        """Takes the reverse modules out of the model; all parameters are fine-tuned."""
        knobs = context.knobs
        trunk: Any = student.blocks
        install_slimmed(student, context.shape, knobs, pre_blocks_of(student))
        student.requires_grad_(True)
        plan = self.expect(context.shape, context.plan, knobs)
        companion = trunk.reverse.requires_grad_(True) if _accompanies(knobs) else None
        return SlimmedModel(model=student, plan=plan, knobs=knobs, companion=companion)

    def build(self, model: nn.Module, shape: ViTShape, plan: Plan, knobs: Knobs) -> nn.Module:
        return self._slimmed(model, shape, knobs)

    @staticmethod
    def _slimmed(model: nn.Module, shape: ViTShape, knobs: Knobs) -> nn.Module:
        like = next(model.parameters())
        steps: dict[int, nn.Module] = {
            block: _kind(knobs)(shape.dim, made, shape.prefix_tokens, sized=is_sized(knobs)).to(like)
            for block, (_, made) in slimming_steps(shape, knobs).items()
        }
        if knobs["spare_until"]:
            # The spare patch is the last of its module, so that dropping it is a slice.
            steps[knobs["spare_until"]] = FirstTokens(patches_of_blocks(shape, knobs)[-1] + shape.prefix_tokens)
        return install_slimmed(model, shape, knobs, {**pre_blocks_of(model), **steps})


def _kind(knobs: Knobs) -> type[TokenSlimming] | type[SeededSlimming]:
    """The slimming module; recipes that are older than the knob have the paper's."""
    return SeededSlimming if knobs.get("slots", _EARLIER["slots"]) == "image" else TokenSlimming


def _accompanies(knobs: Knobs) -> bool:
    """Whether FRD lasts to the end; a recipe of an earlier version says nothing and ends it after `train_share`."""
    return bool(knobs.get("recalibrate", _EARLIER["recalibrate"]) == "throughout")


def _behind(reverse: ReverseModules, outputs: list[Tensor]) -> Iterator[tuple[tuple[int, Any], Tensor]]:
    """Each reverse module with its block's index and what it reads."""
    for index, module in reverse.items():
        yield (int(index), module), outputs[int(index)]


@torch.no_grad()
def _outputs(model: nn.Module, images_B3HW: Tensor) -> list[Tensor]:
    with record_outputs(blocks_of(model)) as outputs:
        model(images_B3HW)
    return outputs


@torch.no_grad()
def _entering(module: nn.Module, model: nn.Module, images_B3HW: Tensor) -> Tensor:
    """The tokens that enter a module of the model."""
    inputs: list[Tensor | SizedTokens] = []
    hook = module.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    try:
        model(images_B3HW)
    finally:
        hook.remove()
    return inputs[0] if isinstance(inputs[0], Tensor) else inputs[0].x_BND
