"""DPS, the dynamic form of Patch Slimming (CVPR 2022, arXiv 2106.02852): every image has its own removed patches in a block.

The paper's text on its dynamic form could not be verified, and there is no public code. How patches are selected is therefore ours: in
every block that removes some, a small scorer on the tokens that enter it, LayerNorm and a linear map to one number (`linear`), with a
small MLP added (`mlp`), predicts log s up to scale, s being the image's own impact score (Eq. 6) in the dense model. The scorer starts
from least squares on some images, and is trained in the slimmed model itself, on the tokens that it will select from. The patches with
the highest predictions are computed, as many in every image as in the static form; keys and values are those of all that enter. The
scorers are priced in the plan and stay frozen while the blocks are fine-tuned.

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
from autoslim.cost.flops import LAYER_NORM
from autoslim.methods.base import DistillationBatch, ModuleFactory, SlimmedModel, StepContext, Tensors, freeze
from autoslim.methods.knob import Knob, Ranges
from autoslim.methods.layers.adaptive_trunk import (
    AdaptiveTrunk,
    Drop,
    DropBlock,
    Ragged,
    Scorer,
    image_flops,
    refuse_pooling,
    token_counts,
)
from autoslim.methods.layers.sublayer import RemovedSublayer
from autoslim.methods.layers.token_selector import TokenIndices, TokenSelector
from autoslim.methods.layers.token_trunk import blocks_of, install
from autoslim.methods.layers.tokens import behind_prefix, order_by
from autoslim.methods.patch_slimming.impact import find_masks, tokens_between_blocks
from autoslim.methods.patch_slimming.method import (
    PatchSlimming,
    counts_of_plan,
    install_selectors,
    measured_tokens,
    token_selectors,
)
from autoslim.methods.patch_slimming.pyramid import Counts, counts_left, rectangular
from autoslim.models import read_shape

KINDS = ("linear", "mlp")

SELECTOR = "patch selector"
"""The selectors' name in a plan and in a latency table."""

HEADROOM = 1.25
"""The caps over the fixed form's counts where the budget holds for the mean: room for images that need more patches."""

_MARGIN = 0.005
"""Share of a budget for the mean that stays unused, because the mean is checked on other images than those of the calibration."""

_BISECTIONS = 12
_WIDEST_SHIFT = 8.0
"""Thresholds move by up to eight standard deviations of the predictions, in steps down to 16 / 2^12 of one."""

_CALIBRATION_BATCHES = 8
_CALIBRATION_BATCH = 64
"""Images in a pass; each of the bisection's steps runs all of the calibration's images."""

_RIDGE = 1e-5
"""On the diagonal of the normalised features' second moments, about 1: only for features that are exactly dependent."""

_FLOOR = 1e-4
"""Impact below this share of an image's mean counts as equal: the logarithm would spread out patches that are all negligible."""


class ImpactScorer(Scorer):
    """Predicts each patch's impact, (B, N, D) -> (B, P): a linear map of its normalised token, with `mlp` a small MLP added."""

    def __init__(self, dim: int, num_prefix_tokens: int, kind: str) -> None:
        super().__init__()
        self.dim, self.num_prefix_tokens, self.kind = dim, num_prefix_tokens, kind
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, 1)
        self.mlp: nn.Module | None = None
        if kind == "mlp":
            self.mlp = nn.Sequential(nn.Linear(dim, mlp_width(dim)), nn.GELU(), nn.Linear(mlp_width(dim), 1))
        # A generator of its own leaves the global one alone, so that equal recipes stay equal.
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in (*self.linear.parameters(), *(() if self.mlp is None else self.mlp.parameters())):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / dim**0.5)

    def of_tokens(self, x_BND: Tensor) -> Tensor:
        normed_BPD = self.norm(x_BND[:, self.num_prefix_tokens :])
        score_BP1: Tensor = self.linear(normed_BPD)
        if self.mlp is not None:
            score_BP1 = score_BP1 + self.mlp(normed_BPD)
        return score_BP1.squeeze(-1)

    def forward(self, ragged: Ragged) -> Tensor:
        return self.of_tokens(ragged.x_BND)

    @torch.no_grad()
    def start_from(self, x_BND: Tensor, wanted_BP: Tensor) -> None:
        """Sets the linear map, in closed form, to the ridge regression of `wanted_BP` on these tokens (B, N, D)."""
        # The MLP starts at random; the linear map is fitted to what it leaves to predict.
        patches_ND = self.norm(x_BND[:, self.num_prefix_tokens :]).flatten(0, 1).double()
        features_NE = torch.cat((patches_ND, torch.ones_like(patches_ND[:, :1])), dim=1)
        left_N = wanted_BP.flatten().double()
        if self.mlp is not None:
            left_N = left_N - self.mlp(patches_ND.to(x_BND.dtype)).squeeze(-1).double()
        # The second moments below are sums, not means: the ridge grows with the number of patches as they do.
        ridge_E = torch.eye(self.dim + 1, dtype=torch.float64, device=x_BND.device) * (_RIDGE * len(features_NE))
        solution_E = torch.linalg.solve(features_NE.T @ features_NE + ridge_E, features_NE.T @ left_N)
        self.linear.weight.copy_(solution_E[None, :-1])
        self.linear.bias.copy_(solution_E[-1:])

    def price(self, block: int, tokens: int) -> Extra:
        return price_of_selector(self.dim, self.kind, block, tokens - self.num_prefix_tokens)


def mlp_width(dim: int) -> int:
    """Hidden units of a scorer's MLP: with D^2 / 16 multiply-accumulates a patch, about 0.5 % of a block's 12 D^2."""
    return max(8, dim // 16)


def price_of_selector(dim: int, kind: str, block: int, patches: int) -> Extra:
    """The price of scoring `patches` patches in block `block`."""
    hidden = mlp_width(dim) if kind == "mlp" else 0
    weights = dim + hidden * (dim + 1)
    return Extra(
        name=SELECTOR,
        place=f"block {block}",
        matmuls=patches * weights,
        norms=LAYER_NORM * patches * dim,
        params=2 * dim + weights + 1 + (hidden + 1 if hidden else 0),
    )


class KeepSelected(TokenSelector):
    """Selects the `patches` patches of the highest scores, highest first."""

    def __init__(self, scorer: ImpactScorer, patches: int) -> None:
        super().__init__()
        self.scorer = scorer
        self.patches = patches

    def rows(self, x_BND: Tensor) -> TokenIndices:
        kept_BK = order_by(self.scorer.of_tokens(x_BND))[:, : self.patches]
        return behind_prefix(kept_BK, num_prefix_tokens=self.scorer.num_prefix_tokens)


def impact_targets(score_BP: Tensor) -> Tensor:
    """The scorers' targets (B, P) from impact scores s (B, P): log s, centred per image, in standard deviations over all images.

    Images whose impact is concentrated on few patches keep a wider spread than others; adaptive counts depend on it.
    """
    log_BP = (score_BP.float() / score_BP.float().mean(dim=1, keepdim=True).clamp_min(1e-30)).clamp_min(_FLOOR).log()
    centred_BP = log_BP - log_BP.mean(dim=1, keepdim=True)
    return centred_BP / centred_BP.square().mean().sqrt().clamp_min(1e-6)


class DPS(PatchSlimming):
    """Patch Slimming's counts, with a selector in each block that removes patches."""

    name = "dps"
    paper = "https://arxiv.org/abs/2106.02852"
    ranges: ClassVar[Ranges] = {
        **{name: knob for name, knob in PatchSlimming.ranges.items() if name != "places"},
        "selector": Knob(
            kind="choice", help="patches are scored by a linear map, or with a small MLP added", default="linear", choices=KINDS
        ),
        "adaptive": Knob(kind="choice", help="counts that differ from image to image", default=False, choices=(False, True)),
        "train_share": Knob(
            kind="float", help="share of the epochs spent on the selectors alone", default=0.2, low=0.02, high=0.6
        ),
        "selector_lr": Knob(
            kind="float", help="selectors' learning rate over the recipe's", default=4.0, low=0.5, high=50.0, log=True
        ),
    }

    def repair(self, shape: ViTShape, knobs: Knobs) -> Knobs:
        """Raises UnsupportedModelError for adaptive counts where the head reads patches."""
        repaired = super().repair(shape, knobs)
        if repaired["adaptive"]:
            refuse_pooling("DPS with adaptive counts", shape)
        return repaired

    def extras(self, shape: ViTShape, knobs: Knobs, counts: Counts) -> tuple[Extra, ...]:
        # A selector scores the patches that enter its block, and a block that removes none has no selector.
        entering = [shape.patches, *counts[:-1]]
        return tuple(
            price_of_selector(shape.dim, knobs["selector"], block, before)
            for block, (before, count) in enumerate(zip(entering, counts, strict=True))
            if count < before
        )

    def attach(self, model: nn.Module, context: StepContext, images_B3HW: Tensor) -> nn.Module:
        """The finished form with fixed counts, its scorers fitted to the shared images by least squares."""
        shape, knobs = context.shape, context.knobs
        tokens = measured_tokens(model, context)
        counts, _ = self.decide(model, context, tokens)
        blocks = blocks_of(model)
        # Each image has masks of its own here: its Eq. 6 runs through the patches that it keeps in later blocks.
        chain = find_masks(blocks, tokens, shape, counts, paths=knobs["paths"], own=True)
        freeze(model)
        student = install_selectors(model, shape, counts, self._selectors(shape, counts, knobs))
        for block, selector in selectors_by_block(student).items():
            selector.scorer.to(tokens[block]).start_from(tokens[block], impact_targets(chain.scores[block]))
        return student

    @staticmethod
    def _selectors(shape: ViTShape, counts: Counts, knobs: Knobs) -> list[TokenSelector]:
        return [KeepSelected(ImpactScorer(shape.dim, shape.prefix_tokens, knobs["selector"]), count) for count in counts]

    def priced_modules(self) -> dict[str, ModuleFactory]:
        def selector(shape: ViTShape, tokens: int, left: int) -> nn.Module:
            # The linear form: the default, and next to nothing less than the MLP takes.
            scorer = ImpactScorer(shape.dim, shape.prefix_tokens, "linear")
            return _SelectedRows(KeepSelected(scorer, left - shape.prefix_tokens))

        return {SELECTOR: selector}

    def learning_rates(self, student: nn.Module, knobs: Knobs) -> dict[str, float]:
        trained = (name.rpartition("scorer.")[2] for name, p in student.named_parameters() if p.requires_grad)
        return {f"scorer.{part}": knobs["selector_lr"] for part in sorted(set(trained))}

    def loss(self, knobs: Knobs, batch: DistillationBatch) -> Tensors:
        """The mean squared error of `impact_targets`, over the patches that reach each selector.

        `agreement` is the share of the selected patches that the image's own scores select, too.
        """
        shape = read_shape(batch.teacher)
        selectors = selectors_by_block(batch.student)
        counts = counts_left(shape, {block: selector.patches for block, selector in selectors.items()})
        tokens = tokens_between_blocks(batch.teacher, batch.images_B3HW)
        chain = find_masks(blocks_of(batch.teacher), tokens, shape, counts, paths=knobs["paths"], own=True)
        place_BP = torch.arange(shape.patches, device=chain.scores.device).expand(len(tokens[0]), -1)
        # Patches that have reached a block, by their place in the image: the targets are those of the dense model, for all places.
        errors, agreements = [], []
        for block, x_BND in tokens_entering(batch.student, batch.images_B3HW, list(selectors)).items():
            score_BP = selectors[block].scorer.of_tokens(x_BND).float()
            wanted_BP = impact_targets(chain.scores[block]).gather(1, place_BP)
            errors.append((score_BP - wanted_BP).square().mean())
            kept_BK = order_by(score_BP.detach())[:, : counts[block]]
            # The next selector sees what this one has selected, not what its targets would have.
            place_BP = place_BP.gather(1, kept_BK)
            agreements.append(chain.masks[block].gather(1, place_BP).float().mean())
        return {"loss": torch.stack(errors).mean(), "agreement": torch.stack(agreements).mean()}

    def prune(self, student: nn.Module, context: StepContext) -> SlimmedModel:
        shape, knobs = context.shape, context.knobs
        selectors = selectors_by_block(student)
        counts = counts_left(shape, {block: selector.patches for block, selector in selectors.items()})
        if knobs["adaptive"] and context.bound == "mean":
            counts = [min(shape.patches, math.ceil(HEADROOM * count)) for count in counts]
        plan = rectangular(shape, context.plan, counts, self.extras(shape, knobs, counts))
        if knobs["adaptive"]:
            scorers = {block: selector.scorer for block, selector in selectors.items()}
            student = _adaptive(student, blocks_of(student), shape, counts, scorers)
        student.requires_grad_(True)
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
        seen = torch.cat(list(itertools.islice(images(), _CALIBRATION_BATCHES)))
        mean = context.bound == "mean"
        # Front to back: each threshold decides which patches reach the later scorers.
        for _, drop in trunk.drops():
            # With a budget for the mean, the caps include the headroom that the wanted counts do not have.
            wanted = drop.cap / HEADROOM if mean else drop.cap
            _set_threshold(drop, _threshold(_scores_of(model, drop, seen), wanted * len(seen)))
        if mean:
            _shift_onto_mean(model, context, seen)

    def build(self, model: nn.Module, shape: ViTShape, plan: Plan, knobs: Knobs) -> nn.Module:
        counts = counts_of_plan(shape, plan)
        if knobs["adaptive"]:
            before = [shape.patches, *counts[:-1]]
            dropping = [block for block, count in enumerate(counts) if count < before[block]]
            scorers = {block: ImpactScorer(shape.dim, shape.prefix_tokens, knobs["selector"]) for block in dropping}
            return _adaptive(model, blocks_of(model), shape, counts, scorers)
        return install_selectors(model, shape, counts, self._selectors(shape, counts, knobs))


class _SelectedRows(nn.Module):
    """The selection alone, for the latency table: the block itself takes the tokens."""

    def __init__(self, selector: KeepSelected) -> None:
        super().__init__()
        self.selector = selector

    def forward(self, x_BND: Tensor) -> Tensor:
        rows = self.selector.rows(x_BND)
        assert isinstance(rows, Tensor)
        return rows


def selectors_by_block(student: nn.Module) -> dict[int, KeepSelected]:
    return {block: selector for block, selector in token_selectors(student).items() if isinstance(selector, KeepSelected)}


@torch.no_grad()
def tokens_entering(student: nn.Module, images_B3HW: Tensor, blocks: list[int]) -> dict[int, Tensor]:
    """The tokens (B, N, D) that enter the given blocks, in the student's own pass."""
    seen: dict[int, Tensor] = {}

    def note(block: int, stage: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen[block] = args[0]

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
    steps: dict[int, Drop] = {}
    for number, block in enumerate(blocks):
        if number not in scorers:
            inside.append(block)
            continue
        # Until `calibrate`, every image keeps as many patches as the caps allow.
        drop = Drop(cap=counts[number], threshold=-math.inf, num_prefix_tokens=shape.prefix_tokens, scorer=scorers[number])
        # Without attention there are no keys for which the block would have to see the removed patches.
        if isinstance(block.attn, RemovedSublayer):
            inside.append(block)
            steps[number] = drop
        else:
            inside.append(DropBlock(block, drop))
    return install(model, AdaptiveTrunk(inside, steps))


def _scores_of(model: nn.Module, drop: Drop, images_B3HW: Tensor) -> Tensor:
    """The scores of all patches that reach a drop's scorer, of all images in one row, without padding."""
    found: list[Tensor] = []

    def note(scorer: nn.Module, args: tuple[Ragged], score_BP: Tensor) -> None:
        own_BP = ~args[0].padding_BN()[:, drop.num_prefix_tokens :]
        found.append(score_BP[own_BP].float())

    hook = drop.scorer.register_forward_hook(note)  # type: ignore[union-attr]
    try:
        for batch_B3HW in torch.split(images_B3HW, _CALIBRATION_BATCH):
            model(batch_B3HW)
    finally:
        hook.remove()
    return torch.cat(found)


def _set_threshold(drop: Drop, value: float) -> None:
    threshold: Tensor = drop.threshold  # type: ignore[assignment]
    threshold.fill_(value)


def _threshold(scores: Tensor, wanted: float) -> float:
    """Halfway between the `wanted`-th highest score and the next."""
    falling = scores.sort(descending=True).values
    last = min(max(int(wanted), 1), len(falling)) - 1
    # Where all patches are wanted, any value below the lowest score will do.
    below = falling[last + 1] if last + 1 < len(falling) else falling[last] - 1
    return float((falling[last] + below) / 2)


def _shift_onto_mean(model: nn.Module, context: StepContext, images_B3HW: Tensor) -> None:
    """Shifts all thresholds alike, as little as the mean FLOPs of the images within the budget allow."""
    trunk: Any = model.blocks
    start = [(drop, drop.threshold.item()) for _, drop in trunk.drops()]

    def mean_flops(shift: float) -> float:
        for drop, threshold in start:
            _set_threshold(drop, threshold + shift)
        counts = [token_counts(model, batch) for batch in torch.split(images_B3HW, _CALIBRATION_BATCH)]
        return float(image_flops(model, context.shape, context.plan, torch.cat(counts)).double().mean())

    # The mean falls with the shift. It ends at `high`, which is within the budget.
    low, high = -_WIDEST_SHIFT, _WIDEST_SHIFT
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if mean_flops(middle) <= (1 - _MARGIN) * context.budget:
            high = middle
        else:
            low = middle
    # The last probe may have failed, and has left its thresholds behind: the accepted shift is set again.
    mean_flops(high)
