"""SiT, self-slimmed ViT (ECCV 2022, arXiv 2111.12624): modules mix tokens into fewer, and training restores the teacher's from them.

A token slimming module (TSM) in front of a block mixes all patches into fewer, with weights that it computes from them. Feature
recalibration distillation (FRD) trains everything: the labels' loss, plus `token_weight` times the mean over the blocks of the squared
error between the teacher's patches and those that a reverse module (RTSM) restores behind each slimmed block, plus `logit_weight`
times KL(teacher || student). The teacher is the dense model. The training form and the pruned form give the same logits, bit by bit: the
reverse modules run beside the trunk, and removing them is all that pruning does.

Ours, and different from the paper and its code:

- The initialisation of the modules (`token_slimming`).
- Counts are free per stage, so that any budget can be met; the code halves them at each. By default there is one stage.
- One token more than the last stage's may be kept for some blocks, to fill a budget.
- Reverse modules are behind the slimmed blocks alone; the code's first one is behind the block in front of the slimming.
- The default `token_weight` is 0.1, where the paper's is 2.
- When the reverse modules have been removed, the remaining epochs fine-tune the model as with any method.

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
from autoslim.methods.base import DistillationBatch, Method, ModuleFactory, SlimmedModel, StepContext, Tensors
from autoslim.methods.knob import Knob, Ranges, complete
from autoslim.methods.layers.token_selector import FirstTokens
from autoslim.methods.layers.token_trunk import Trunk, blocks_of, install, pre_blocks_of
from autoslim.methods.losses import soft_label_loss
from autoslim.methods.sit.recalibration import RecalibratedTrunk, record_outputs
from autoslim.methods.sit.stages import patches_of_blocks, ratio_of, slimming_steps, stages
from autoslim.methods.sit.token_slimming import (
    TOKEN_SLIMMING,
    ReverseTokenSlimming,
    TokenSlimming,
    init_reverse,
    init_slimming,
)

MAX_STAGES = 3
"""As many as the paper's models have."""

_WEIGHED_BY = {"temperature": "logit_weight", "reverse_lr": "token_weight"}
"""Knobs that have no effect where the weight of their loss is 0."""

_CALIBRATION = 64
"""Images that the modules are initialised on."""


class SiT(Method):
    """Up to three stages: in front of block `stage_layer_k`, the patches are mixed into the share `keep_ratio_k` of the image's."""

    name = "sit"
    paper = "https://arxiv.org/abs/2111.12624"
    ranges: ClassVar[Ranges] = {
        "stages": Knob(kind="choice", help="how often tokens are slimmed", default=1, choices=tuple(range(1, MAX_STAGES + 1))),
        **{
            f"stage_layer_{k}": Knob(
                kind="layer", help=f"block in front of which stage {k} slims", default=(k + 1) / 6, low=0.0, high=1.0
            )
            for k in range(1, MAX_STAGES + 1)
        },
        **{
            f"keep_ratio_{k}": Knob(
                kind="float",
                help=f"share of the image's patches left by stage {k}",
                default=round(0.7**k, 3),
                low=0.01,
                high=1.0,
                cost_sign=1,
            )
            for k in range(1, MAX_STAGES + 1)
        },
        "spare_until": Knob(
            kind="int",
            help="block up to which the last stage's tokens are one more (0: none); the solver's",
            default=0,
            low=0,
            high=1000,
            searched=False,
        ),
        "sharpness": Knob(
            kind="float",
            help="how sharply a slimming module first tells patches apart, per variance of their features",
            default=20.0,
            low=2.0,
            high=200.0,
            log=True,
        ),
        "token_weight": Knob(kind="float", help="weight of the restored tokens' squared error", default=0.1, low=0.0, high=8.0),
        # The paper's lambda and temperature of the logits.
        "logit_weight": Knob(kind="float", help="weight of the divergence from the teacher", default=2.0, low=0.0, high=8.0),
        "temperature": Knob(
            kind="float", help="temperature of the divergence from the teacher", default=1.0, low=0.5, high=8.0, log=True
        ),
        "slimming_lr": Knob(
            kind="float", help="slimming modules' learning rate over the recipe's", default=1.0, low=0.2, high=20.0, log=True
        ),
        # As in the released code, whose reverse modules learn five times as fast as the rest.
        "reverse_lr": Knob(
            kind="float", help="reverse modules' learning rate over the recipe's", default=5.0, low=0.2, high=20.0, log=True
        ),
        # Recalibration leaves trained weights: a second warm-up to the full rate loses accuracy again.
        "tune_lr": Knob(
            kind="float",
            help="learning rate over the recipe's once the reverse modules are gone",
            default=0.1,
            low=0.01,
            high=1.0,
            log=True,
        ),
        "train_share": Knob(
            kind="float", help="share of the epochs trained with the reverse modules", default=0.8, low=0.05, high=0.95
        ),
    }

    def check(self, shape: ViTShape) -> None:
        if shape.depth < 2:
            raise UnsupportedModelError(f"SiT needs at least 2 blocks, the model has {shape.depth}")

    def is_active(self, knob: str, chosen: Knobs) -> bool:
        if knob in _WEIGHED_BY:
            return bool(chosen[_WEIGHED_BY[knob]] > 0)
        number = knob.rpartition("_")[2]
        return not number.isdigit() or int(number) <= chosen["stages"]

    def repair(self, shape: ViTShape, knobs: Knobs) -> Knobs:
        """Layers in rising, ratios in falling order; of two stages on one block the harder one stays; one that slims nothing goes.

        Each stage makes fewer patches than the one before. Where none slims, one that keeps all is left, and has no module.
        """
        full = complete(self.ranges, knobs, depth=shape.depth)
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
        if not self._may_spare(shape, full, full["spare_until"]):
            full["spare_until"] = 0
        return {name: full[name] for name in self.ranges if self.is_active(name, full)}

    @staticmethod
    def _may_spare(shape: ViTShape, knobs: Knobs, until: int) -> bool:
        """Whether the last stage still slims with one token more, and `until` is behind it."""
        made = stages(shape, knobs)
        if not made:
            return False
        before = ([shape.patches, *made.values()])[-2]
        return max(made) < until < shape.depth and min(made.values()) + 1 < before

    def expect(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> Plan:
        """Raises UnsupportedModelError where an earlier step has pruned tokens: the teacher's could not be restored from the rest."""
        if any(block.tokens_kv < shape.tokens for block in plan.blocks):
            raise UnsupportedModelError("SiT needs all tokens of the image; an earlier step of the recipe has pruned some")
        prices = [
            TokenSlimming.price(dim=shape.dim, patches=patches, made=made, block=block)
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
            yield from (
                {**knobs, "spare_until": block} for block in range(2, shape.depth) if self._may_spare(shape, knobs, block)
            )

    def attach(self, model: nn.Module, context: StepContext, images_B3HW: Tensor) -> nn.Module:
        """Initialises the modules front to back, each on the tokens that the modules before it make of `images_B3HW`."""
        shape, knobs = context.shape, context.knobs
        model.requires_grad_(True)
        training = model.training
        model.eval()
        x_B3HW = images_B3HW[:_CALIBRATION]
        # Before the modules are installed: `_slimmed` changes this model in place.
        teacher_tokens = _outputs(model, x_B3HW)
        student = self._slimmed(model, shape, knobs)
        steps: dict[int, Any] = pre_blocks_of(student)
        for block, made in stages(shape, knobs).items():
            x_BPD = _outputs(student, x_B3HW)[block - 1][:, shape.prefix_tokens :]
            init_slimming(steps[block], x_BPD, made, sharpness=knobs["sharpness"])
        # Without a token loss nothing would train the reverse modules.
        reverse = self._reverse(student, shape, knobs, x_B3HW, teacher_tokens) if knobs["token_weight"] else {}
        install(student, RecalibratedTrunk(blocks_of(student), pre_blocks_of(student), reverse, shape.prefix_tokens))
        return student.train(training)

    @staticmethod
    def _reverse(
        student: nn.Module, shape: ViTShape, knobs: Knobs, x_B3HW: Tensor, teacher_tokens: list[Tensor]
    ) -> dict[int, ReverseTokenSlimming]:
        reverse = {}
        prefix, counts = shape.prefix_tokens, patches_of_blocks(shape, knobs)
        for block, x_BND in enumerate(_outputs(student, x_B3HW)):
            # A block that computes every patch needs no restoring: its tokens are compared as they are.
            if counts[block] < shape.patches:
                reverse[block] = ReverseTokenSlimming(shape.dim, counts[block], shape.patches).to(x_BND)
                init_reverse(reverse[block], x_BND[:, prefix:], teacher_tokens[block][:, prefix:])
        return reverse

    def finetune_rate(self, knobs: Knobs) -> float:
        return float(knobs["tune_lr"])

    def priced_modules(self) -> dict[str, ModuleFactory]:
        def slimming(shape: ViTShape, tokens: int, left: int) -> nn.Module:
            return TokenSlimming(shape.dim, left - shape.prefix_tokens, shape.prefix_tokens)

        return {TOKEN_SLIMMING: slimming}

    def learning_rates(self, student: nn.Module, knobs: Knobs) -> dict[str, float]:
        rates = {}
        for name, _ in student.named_parameters():
            if ".pre_block." in name:
                rates[name] = float(knobs["slimming_lr"])
            elif ".reverse." in name:
                rates[name] = float(knobs["reverse_lr"])
        return rates

    def loss(self, knobs: Knobs, batch: DistillationBatch) -> Tensors:
        """The paper's FRD: label loss + token_weight * MSE + logit_weight * KL(teacher || student)."""
        # Teacher tokens first: the pass that gives them gives the teacher's logits, too.
        trunk: Any = batch.student.blocks
        teacher_tokens = batch.teacher_tokens if knobs["token_weight"] else []
        # The student runs when its logits are first read, which has to be while its outputs are recorded.
        with record_outputs(blocks_of(batch.student)) as outputs:
            logits_BC = batch.logits_BC
        losses = {"labels": batch.label_loss}
        loss = batch.label_loss
        # A term of weight 0 is left out, so that what only it would read of the teacher is never computed.
        if knobs["logit_weight"]:
            losses["logits"] = soft_label_loss(logits_BC, batch.teacher_logits_BC, temperature=knobs["temperature"])
            loss = loss + knobs["logit_weight"] * losses["logits"]
        if knobs["token_weight"]:
            saving = bool(getattr(batch.student, "grad_checkpointing", False))
            losses["tokens"] = trunk.token_loss(outputs, teacher_tokens, saving=saving)
            loss = loss + knobs["token_weight"] * losses["tokens"]
        return {"loss": loss, **losses}

    def prune(self, student: nn.Module, context: StepContext) -> SlimmedModel:
        """Removes the reverse modules; all other parameters are fine-tuned."""
        install(student, Trunk(blocks_of(student), pre_blocks_of(student)))
        student.requires_grad_(True)
        return SlimmedModel(model=student, plan=self.expect(context.shape, context.plan, context.knobs), knobs=context.knobs)

    def build(self, model: nn.Module, shape: ViTShape, plan: Plan, knobs: Knobs) -> nn.Module:
        return self._slimmed(model, shape, knobs)

    @staticmethod
    def _slimmed(model: nn.Module, shape: ViTShape, knobs: Knobs) -> nn.Module:
        like = next(model.parameters())
        steps: dict[int, nn.Module] = {
            block: TokenSlimming(shape.dim, made, shape.prefix_tokens).to(like)
            for block, (_, made) in slimming_steps(shape, knobs).items()
        }
        if knobs["spare_until"]:
            # The spare patch is the last of its module, so that dropping it is a slice.
            steps[knobs["spare_until"]] = FirstTokens(patches_of_blocks(shape, knobs)[-1] + shape.prefix_tokens)
        return install(model, Trunk(blocks_of(model), {**pre_blocks_of(model), **steps}))


@torch.no_grad()
def _outputs(model: nn.Module, images_B3HW: Tensor) -> list[Tensor]:
    with record_outputs(blocks_of(model)) as outputs:
        model(images_B3HW)
    return outputs
