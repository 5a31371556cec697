"""ViT-Slim (CVPR 2022, arXiv 2201.00814): l1-trained masks over attention, MLP and patches, then physical removal.

Eq. 1: loss = cross entropy + w1 |zeta_attention|_1 + w2 |zeta_mlp|_1 + w3 |tanh(zeta_patch)|_1, with every weight trained along with the
masks (`mask_search`) at a constant learning rate, for a seventh of the epochs. Attention, MLP and patches are then ranked by signed
value, each on its own across all layers, the lowest go, and the searched weights are fine-tuned on the labels' loss, without a teacher.
One search serves every budget, so it is shared work. Where patches stay (the default, as in the paper's Table 4), they have no masks.

Ours, and different from the paper and its code:

- Units are removed, not multiplied by zero, and the three shares b fall together until the FLOPs budget is met.
- The heads of a layer keep equally many dimensions, so that a pruned layer is a plain timm `Attention`; in the paper each has a width of
  its own.
- Prefix tokens have no mask, and masks no weight decay.

Ours as options: one ranking over all parts by how far the masks have fallen, over the cost (`rule: fall`, `mask_ranking`); masks that learn
faster than the weights (`mask_lr`), for short searches; l1 presets for such searches; the recipe's loss, with the teacher's soft labels,
in the search (`loss: recipe`) and in the fine-tuning (`tune_loss: recipe`); the dense model's weights (`start: dense`), or the searched
ones with the masks' values folded in; a least-squares refit of what reads removed units (`unit_removal`). `width` ranks without a search.

For widths, the masked form and the pruned form compute the same, up to the refit. For patches they cannot: a patch whose normed tokens are
zero still has the keys and values that the biases make, and takes part in every softmax; a removed patch is no key at all.

Shapes: H heads, K head width, F hidden units, P patches.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Generator
from typing import ClassVar

import torch
from torch import Tensor, nn

from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs
from autoslim.core.result import EpochReport
from autoslim.core.shape import BlockShape, ViTShape
from autoslim.cost.flops import predict
from autoslim.methods.base import Method, SlimmedModel, StepContext
from autoslim.methods.knob import Ranges
from autoslim.methods.layers.backbone import install
from autoslim.methods.layers.sublayer import check_parts, check_tokens, check_widths
from autoslim.methods.layers.token_selector import FixedTokens
from autoslim.methods.layers.token_trunk import Trunk, blocks_of
from autoslim.methods.trainer import DISTILLATION, DistillationBatch, SharedTrainer, Tensors
from autoslim.methods.unit_removal.block_pruning import check_first, empty_widths, prune_widths
from autoslim.methods.unit_removal.budget_pruning import Layer, prune_to_budget
from autoslim.methods.unit_removal.kept_share import KeptShare, canonical_share
from autoslim.methods.unit_removal.least_squares import measure_readers
from autoslim.methods.unit_removal.ranking import head_multiple
from autoslim.methods.vit_slim.knobs import EARLIER, L1_WEIGHTS, RANGES
from autoslim.methods.vit_slim.mask_ranking import RankingOptions, rank_removals
from autoslim.methods.vit_slim.mask_search import Masks, gate_block, l1_norms, masks_of, ungate_patches, unmasked

SEARCH_DECAY = 1e-3
"""Weight decay of the mask search, as in the released code; the fine-tuning has the recipe's."""


class ViTSlim(Method):
    """The solver sets the knob `keep`, the share kept of every part; the masks decide which units stay."""

    name = "vit_slim"
    paper = "https://arxiv.org/abs/2201.00814"
    ranges: ClassVar[Ranges] = RANGES

    before_others: ClassVar[Knobs] = {"patches": "stay"}

    def check(self, shape: ViTShape) -> None:
        check_widths(self.name, shape)

    def is_active(self, knob: str, chosen: Knobs) -> bool:
        if knob == "cost_power":
            return bool(chosen["rule"] == "fall")
        if knob == "patch_share":
            return bool(chosen["patches"] != "stay")
        return True

    def repair(self, shape: ViTShape, knobs: Knobs) -> Knobs:
        """Moves `keep` to the middle of the shares that give the same plan, so that equal plans are equal recipes.

        Raises:
            UnsupportedModelError: for `patches` that go where the model needs all of them.
        """
        if {"l1", "start", "refit", "rule", "whole", "mlp_give"} <= knobs.keys():
            # Complete knobs: what is missing then is younger than the recipe.
            knobs = {**EARLIER, **knobs}
        full = super().repair(shape, knobs)
        if full["patches"] != "stay":
            check_tokens(f"vit_slim with patches {full['patches']!r}", shape)
            check_parts(f"vit_slim with patches {full['patches']!r}", shape)
        parts = [_patch_part(shape, full), *(part for own in shape.kinds for part in _width_parts(own, full))]
        full["keep"] = canonical_share(parts, full["keep"])
        return full

    def expect(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> Plan:
        """The same share of every layer, a stand-in for the ranking that only the masks give; `prune` fills the budget with that.

        Raises:
            UnsupportedModelError: when an earlier step has pruned the model, because the masks are searched on the whole one.
        """
        check_first(shape, plan, "ViT-Slim", "its masks are searched on the whole model")
        kept = {own: [part.kept(knobs["keep"]) for part in _width_parts(own, knobs)] for own in shape.kinds}
        widths = (kept[own] for own in shape.blocks)
        narrowed = (
            block.replace(head_width=head_width, hidden=hidden)
            for block, (head_width, hidden) in zip(plan.blocks, widths, strict=True)
        )
        aimed = plan.replace(blocks=tuple(narrowed))
        if knobs["patches"] == "stay":
            return aimed
        patches = _patch_part(shape, knobs).kept(knobs["keep"])
        return aimed.with_tokens((shape.prefix_tokens + patches,) * shape.depth)

    def shared_settings(self, shape: ViTShape, knobs: Knobs) -> Knobs:
        """What the search depends on: its l1 preset, length, rate and loss, and whether patches have masks."""
        known = {**EARLIER, **knobs}
        settings = {name: known[name] for name in ("l1", "search_share", "mask_lr")}
        if known["loss"] != EARLIER["loss"]:
            # Left out where it is what it always was: a job that an earlier version began then finds its masks again.
            settings["loss"] = known["loss"]
        return {**settings, "patches": known["patches"] != "stay"}

    def shared_share(self, settings: Knobs) -> float:
        return float(settings["search_share"])

    def prepare(self, shared_trainer: SharedTrainer, settings: Knobs) -> Generator[EpochReport, None, Tensors]:
        """The mask search; returns its weights and masks by parameter name."""
        # Eq. 1 trains the weights along with the masks.
        student = _gated(shared_trainer.student(), shared_trainer.shape, patches=settings["patches"]).requires_grad_(True)
        yield from shared_trainer.train(
            student,
            functools.partial(self.loss, settings),
            epochs=settings["search_share"] * shared_trainer.training.epochs,
            learning_rates={"zeta": settings["mask_lr"]},
            constant_rate=True,
            weight_decay=SEARCH_DECAY,
        )
        return {name: parameter.detach() for name, parameter in student.named_parameters()}

    def attach(self, model: nn.Module, context: StepContext, images_B3HW: Tensor) -> nn.Module:
        check_first(context.shape, context.plan, "ViT-Slim", "its masks are searched on the whole model")
        assert context.shared is not None
        student = _gated(model, context.shape, patches=context.knobs["patches"] != "stay")
        own = dict(student.named_parameters())
        assert own.keys() == context.shared.keys()
        for name, parameter in own.items():
            # The masks always are the search's, and so are the weights, unless a short search only ranks.
            if name.endswith("zeta") or context.knobs["start"] != "dense":
                parameter.data.copy_(context.shared[name])
        if context.knobs["refit"]:
            # Moments of the form that will be pruned: with the masks where they are folded in, without them where they only rank.
            with contextlib.nullcontext() if context.knobs["start"] == "folded" else unmasked(blocks_of(student)):
                measure_readers(student, images_B3HW)
        return student.requires_grad_(False)

    def loss(self, knobs: Knobs, batch: DistillationBatch) -> Tensors:
        """Eq. 1 of the paper; the mask search minimises it. `knobs` are its `shared_settings`, or a recipe's."""
        # Sums over all masks of the model, not means, as in Eq. 1: w1 to w3 refer to them.
        norms = l1_norms(blocks_of(batch.student))
        weights = dict(zip(("attention", "mlp", "patches"), L1_WEIGHTS[knobs["l1"]], strict=True))
        task = batch.label_loss if _searches_on_labels(knobs) else batch.task_loss
        loss = task + torch.stack([weights[part] * norm for part, norm in norms.items()]).sum()
        return {"loss": loss, **{f"l1_{part}": norm for part, norm in norms.items()}}

    def finetune_loss(self, knobs: Knobs, batch: DistillationBatch) -> Tensors:
        """The labels' or the task's loss."""
        return {"loss": batch.label_loss if _tunes_on_labels(knobs) else batch.task_loss}

    def replaced_settings(self, knobs: Knobs) -> frozenset[str]:
        """The recipe's distillation, where the fine-tuning does not read it; the mask search has the settings of all trials."""
        return DISTILLATION if _tunes_on_labels(knobs) else frozenset()

    def prune(self, student: nn.Module, context: StepContext) -> SlimmedModel:
        shape, plan, knobs = context.shape, context.plan, dict(context.knobs)
        masks = [_at_rest(masks_of(block)) for block in blocks_of(student)]
        options = _terms(knobs)
        aim = self._aim(context)
        # The masks rank, the budget decides how far: one search serves every budget.
        layers, finished = prune_to_budget(
            shape, plan, rank_removals(masks, shape, plan, plan, options, aim), context.budget, context.constraints
        )
        if knobs["patches"] != "stay":
            # With fewer tokens a width unit costs less, and with fewer widths a token does: the second ranking takes the prices of the
            # first one's result.
            layers, finished = prune_to_budget(
                shape, plan, rank_removals(masks, shape, plan, finished, options, aim), context.budget, context.constraints
            )
        for block, layer, mask in zip(blocks_of(student), layers, masks, strict=True):
            ungate_patches(block)
            # In each head the dimensions with the largest signed masks stay, as in the paper.
            prune_widths(block, layer, mask.head_HK, mask.hidden_F, fold=knobs["start"] == "folded")
        steps = {} if knobs["patches"] == "stay" else _patch_steps(layers, shape)
        if not steps:
            knobs = self.repair(shape, {**knobs, "patches": "stay"})
        student.requires_grad_(True)
        return SlimmedModel(model=install(student, Trunk(blocks_of(student), steps)), plan=finished, knobs=knobs)

    def _aim(self, context: StepContext) -> int:
        """Multiply-accumulates of the pruned model; below the budget where another limit binds. `patch_share` refers to them."""
        if not context.constraints.limits.given:
            return context.budget
        return min(context.budget, predict(context.shape, self.expect(context.shape, context.plan, context.knobs)).total)

    def build(self, model: nn.Module, shape: ViTShape, plan: Plan, knobs: Knobs) -> nn.Module:
        steps: dict[int, nn.Module] = {}
        tokens = shape.tokens
        for index, (block, own) in enumerate(zip(blocks_of(model), plan.blocks, strict=True)):
            empty_widths(block, own)
            # Where patches stay, a step behind this one has pruned the tokens and installs its own selection.
            if own.tokens_kv < tokens and knobs.get("patches", "stay") != "stay":
                steps[index] = FixedTokens.empty(own.tokens_kv)
            tokens = own.tokens_kv
        return install(model, Trunk(blocks_of(model), steps))


def _searches_on_labels(knobs: Knobs) -> bool:
    return bool(knobs.get("loss", EARLIER["loss"]) == "labels")


def _tunes_on_labels(knobs: Knobs) -> bool:
    return bool(knobs.get("tune_loss", EARLIER["tune_loss"]) == "labels")


def _gated(model: nn.Module, shape: ViTShape, *, patches: bool) -> nn.Module:
    for block in blocks_of(model):
        gate_block(block, patches=shape.patches if patches else None, num_prefix_tokens=shape.prefix_tokens)
    return model


def _at_rest(masks: Masks) -> Masks:
    """Copies on the CPU, so that equal masks are ranked equally whichever device trained them."""
    patch_P = None if masks.patch_P is None else masks.patch_P.detach().cpu()
    return Masks(head_HK=masks.head_HK.detach().cpu(), hidden_F=masks.hidden_F.detach().cpu(), patch_P=patch_P)


def _terms(knobs: Knobs) -> RankingOptions:
    patch_share = knobs.get("patch_share", 0.0)
    # Under `fall` all patches may go, and `patch_share` is their least part of the savings; under `value` it is what they give
    # in proportion to the other parts.
    patch_give = 0.0 if knobs["patches"] == "stay" else 1.0 if knobs["rule"] == "fall" else patch_share
    return RankingOptions(
        rule=knobs["rule"],
        l1=L1_WEIGHTS[knobs["l1"]],
        cost_power=knobs.get("cost_power", 0.0),
        width_multiple=knobs["width_multiple"],
        whole=knobs["whole"],
        nesting=knobs["patches"],
        removable=(knobs["attention_give"], knobs["mlp_give"], patch_give),
        patch_share=patch_share if knobs["rule"] == "fall" else 0.0,
    )


def _patch_steps(layers: list[Layer], shape: ViTShape) -> dict[int, nn.Module]:
    """The selection in front of each block that keeps fewer patches than enter it, as indices among those that enter."""
    steps: dict[int, nn.Module] = {}
    there = list(range(shape.patches))
    for index, layer in enumerate(layers):
        places = [place for place, patch in enumerate(there) if patch in layer.patches]
        if len(places) < len(there):
            behind = [shape.prefix_tokens + place for place in places]
            steps[index] = FixedTokens(torch.tensor([*range(shape.prefix_tokens), *behind]))
        there = [there[place] for place in places]
    return steps


def _width_parts(own: BlockShape, knobs: Knobs) -> tuple[KeptShare, KeptShare]:
    """The parts of a block: head width, hidden units."""
    options = _terms(knobs)
    if options.rule == "fall":
        slopes = (1 - options.patch_share, 1 - options.patch_share)
        floors = (1 - options.removable[0], 1 - options.removable[1])
    else:
        slopes, floors = options.removable[:2], (0.0, 0.0)
    multiple = options.width_multiple
    return (
        KeptShare(size=own.head_width, multiple=head_multiple(own, multiple), slope=slopes[0], floor=floors[0]),
        KeptShare(size=own.hidden, multiple=multiple, slope=slopes[1], floor=floors[1]),
    )


def _patch_part(shape: ViTShape, knobs: Knobs) -> KeptShare:
    options = _terms(knobs)
    slope = options.patch_share if options.rule == "fall" else options.removable[2]
    return KeptShare(size=shape.patches, multiple=1, slope=slope, floor=0.0)
