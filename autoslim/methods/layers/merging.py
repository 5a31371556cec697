"""Merging: tokens that go join the nearest that stay, and every token carries its size, the number of patches it stands for.

A token that goes is not lost but averaged into the token that stays whose content is most like its own: the mean of a group's tokens,
weighted by their sizes. As a key a token counts as often as its size, exp(q k + log s) = s exp(q k), so that a group of equal tokens
takes part in a softmax exactly as its members did; a head that averages patches weights them by their sizes, too. Merging tokens that
are equal therefore leaves a model's output as it was.

What goes is decided elsewhere, by a `TokenSelector`, and who joins whom in `groups`; here is what happens to it. Everything has static
shapes and is a comparison, a sort, a gather or a matrix product, so that every runtime takes it: no scatter, no boolean index.

Shapes: B batch, N tokens that enter (prefix included), K tokens that stay, S patches that stay, G patches that go, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.core.plan import Extra
from autoslim.core.recipe import Knobs
from autoslim.core.shape import ViTShape
from autoslim.errors import UnsupportedModelError
from autoslim.methods.knob import Knob
from autoslim.methods.layers.backbone import install
from autoslim.methods.layers.groups import Groups, SizedTokens
from autoslim.methods.layers.rectangular_block import block_rows
from autoslim.methods.layers.sublayer import RemovedSublayer
from autoslim.methods.layers.token_selector import FirstTokens, TokenSelector
from autoslim.methods.layers.token_trunk import Stage, Trunk, refuse_mask, run_block, tokens_alone

MERGING = "token merging"
"""The name of joining tokens in a plan and in a latency table."""

DEAD = Knob(
    kind="choice",
    help="patches that go are dropped (paper), or join the most similar of those that stay",
    default="drop",
    choices=("drop", "merge"),
)
"""The knob `dead` of methods whose papers drop patches."""


def merging_prices(shape: ViTShape, removals: Mapping[int, tuple[int, int]]) -> tuple[Extra, ...]:
    """The price of merging in each block of `removals`, which has the patches that enter it and those that stay.

    S G D multiply-accumulates for the cosines, and as many for the sums of the groups.
    """
    return tuple(
        Extra(name=MERGING, place=f"block {block}", matmuls=2 * stay * (enter - stay) * shape.dim, norms=0)
        for block, (enter, stay) in removals.items()
    )


class MergeInto(nn.Module):
    """A step on sized tokens in front of a block: those that the selector leaves out join the others."""

    def __init__(self, selector: TokenSelector, num_prefix_tokens: int) -> None:
        super().__init__()
        self.selector = selector
        self.num_prefix_tokens = num_prefix_tokens

    def groups(self, tokens: SizedTokens) -> Groups:
        return Groups(tokens.x_BND, self.selector.rows(tokens.x_BND), self.num_prefix_tokens)

    def forward(self, tokens: SizedTokens) -> SizedTokens:
        return self.groups(tokens).merge(tokens)

    def token_map(self, tokens: SizedTokens) -> Tensor:
        """Which entering tokens each token that stays is made of: (B, K, N), rows that sum to 1."""
        return map_of(self.groups(tokens), tokens)


def map_of(groups: Groups, tokens: SizedTokens) -> Tensor:
    """Which of the tokens each token that stays is made of: (B, K, N), rows that sum to 1."""
    x_BND = tokens.x_BND
    batch, entering, _ = x_BND.shape
    # Merging is linear in the tokens: what it does to the identity is its map.
    identity_BNN = torch.eye(entering, dtype=x_BND.dtype, device=x_BND.device).expand(batch, -1, -1)
    return groups.merge(SizedTokens(identity_BNN, tokens.size_BN)).x_BND


class MergeTokens(nn.Module):
    """The merging alone, (B, N, D) -> (B, `tokens`, D), for the latency table."""

    def __init__(self, tokens: int, num_prefix_tokens: int) -> None:
        super().__init__()
        self.merge = MergeInto(FirstTokens(tokens), num_prefix_tokens)

    def forward(self, x_BND: Tensor) -> Tensor:
        merged: SizedTokens = self.merge(SizedTokens(x_BND, None))
        return merged.x_BND


class MergingBlock(nn.Module):
    """A `RectangularBlock` that merges: tokens that go are read once more, as keys and values, by the block in which they join others.

    Takes over a timm block's parts under their own names.
    """

    def __init__(self, block: Any, merge: MergeInto) -> None:
        super().__init__()
        self.merge = merge
        self.norm1, self.attn, self.ls1, self.drop_path1 = block.norm1, block.attn, block.ls1, block.drop_path1
        self.norm2, self.mlp, self.ls2, self.drop_path2 = block.norm2, block.mlp, block.ls2, block.drop_path2

    def forward(self, tokens: SizedTokens) -> SizedTokens:
        groups = self.merge.groups(tokens)
        merged = groups.merge(tokens)
        # The keys are the tokens that enter, so the mask has their sizes; the residual is what leaves.
        x_BKD = block_rows(self, tokens.x_BND, groups.rows, tokens.mask_B11N(), residual_BQD=merged.x_BND, places=tokens.places)
        return merged._replace(x_BND=x_BKD)

    def token_map(self, tokens: SizedTokens) -> Tensor:
        return self.merge.token_map(tokens)


class MergingStage(Stage):
    """One block, and what changes the sized tokens in front of it (None: they pass unchanged)."""

    def leaving(self, count: int, tokens: SizedTokens, **unused: None) -> SizedTokens:
        """As `forward`, but so many tokens stay of those that enter; for a selector that counts."""
        merge: Any = self.block.merge if isinstance(self.block, MergingBlock) else self.pre_block
        selector = merge.selector
        planned, selector.tokens = selector.tokens, count
        try:
            return self(tokens)  # type: ignore[no-any-return]
        finally:
            selector.tokens = planned

    def forward(self, tokens: SizedTokens, **unused: None) -> SizedTokens:  # type: ignore[override]
        """Some of timm's models hand each part arguments besides the tokens, which the first one has checked."""
        return self.compute(self.enter(tokens))

    def compute(self, tokens: SizedTokens) -> SizedTokens:
        if isinstance(self.block, MergingBlock):
            merged: SizedTokens = self.block(tokens)
            return merged
        return tokens._replace(x_BND=run_block(self.block, tokens, mask=tokens.mask_B11N()))


class WeightedMean(nn.Module):
    """What follows the last block where the head averages patches: their norm, if there is one, and a weight for each.

    timm's plain mean of the weighted patches is the mean over all patches of the image.
    """

    def __init__(self, norm: nn.Module, num_prefix_tokens: int) -> None:
        super().__init__()
        self.norm = norm
        self.num_prefix_tokens = num_prefix_tokens

    def forward(self, tokens: SizedTokens, **unused: None) -> Tensor:
        x_BND: Tensor = self.norm(tokens.x_BND)
        if tokens.size_BN is None:
            return x_BND
        size_BP = tokens.size_BN[:, self.num_prefix_tokens :]
        weight_BP1 = (size_BP / size_BP.mean(dim=1, keepdim=True)).unsqueeze(-1).to(x_BND.dtype)
        patches_BPD = x_BND[:, self.num_prefix_tokens :] * weight_BP1
        return torch.cat((x_BND[:, : self.num_prefix_tokens], patches_BPD), dim=1)


class MergingTrunk(Trunk):
    """A trunk whose tokens carry their sizes from end to end; `end` is a `WeightedMean`, or None where the head reads no mean.

    `other_counts` are the tokens that stay in some stages for the passes that begin while they are set, instead of what is planned.
    """

    def __init__(self, blocks: list[nn.Module], steps: Mapping[int, nn.Module], end: WeightedMean | None) -> None:
        super().__init__(blocks, steps)
        self.stages = nn.ModuleList(MergingStage(block, steps.get(index)) for index, block in enumerate(blocks))
        self.end = end
        self.other_counts: dict[int, int] = {}

    def __iter__(self) -> Iterator[Any]:
        """A flat sequence of steps, as timm's gradient checkpointing needs."""
        yield self.start
        stages: Any = self.stages
        for index, stage in enumerate(stages):
            # Bound to the step: a backward pass that computes it again does so with the same count.
            yield functools.partial(stage.leaving, self.other_counts[index]) if index in self.other_counts else stage
        yield tokens_alone if self.end is None else self.end

    @staticmethod
    def start(x_BND: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, **unused: None) -> Any:
        """The image's tokens, nothing of which is merged yet."""
        refuse_mask(attn_mask, is_causal)
        return SizedTokens(x_BND, None)

    def final_norm(self, model: Any) -> nn.Module:
        return super().final_norm(model) if self.end is None else self.end.norm


def merges(knobs: Knobs) -> bool:
    """Whether the knob `dead` says so; it is missing where it has no effect, and in recipes older than it."""
    return bool(knobs.get("dead") == "merge")


def check_pooling(method: str, shape: ViTShape) -> None:
    """Raises UnsupportedModelError where the head cannot weight merged patches by their sizes.

    A mean and a maximum added, of which only the mean needs weights; attention, to which timm passes no mask; a mean that the prefix
    tokens are part of.
    """
    if shape.pool in ("avgmax", "map"):
        raise UnsupportedModelError(
            f"{method}: merged tokens need pooling 'token', 'avg' or 'max'; this model's is {shape.pool!r}"
        )
    if shape.pool == "avg" and shape.pool_prefix:
        raise UnsupportedModelError(
            f"{method}: merged tokens need a mean over patches alone; this model's has prefix tokens, too"
        )


def install_merging(
    model: nn.Module, shape: ViTShape, blocks: list[nn.Module], selectors: Mapping[int, TokenSelector], *, inside: bool
) -> nn.Module:
    """Makes each block in `selectors` merge what its selector leaves out: `inside` the block, or in front of it."""
    merges = {number: MergeInto(selector, shape.prefix_tokens) for number, selector in selectors.items()}
    return install_merges(model, shape, blocks, merges, inside=MergingBlock if inside else None)


def install_merges(
    model: nn.Module,
    shape: ViTShape,
    blocks: list[nn.Module],
    merges: Mapping[int, MergeInto],
    *,
    inside: type[MergingBlock] | None = MergingBlock,
) -> nn.Module:
    """Gives blocks what merges tokens: `inside` the block, as this class does, or in front of it.

    A block without attention has no keys that could still be read, so that it merges in front in any case.
    """
    parts: list[nn.Module] = []
    steps: dict[int, MergeInto] = {}
    for number, block in enumerate(blocks):
        parts.append(block)
        if number not in merges:
            continue
        if inside is not None and not isinstance(block.attn, RemovedSublayer):
            parts[-1] = inside(block, merges[number])
        else:
            steps[number] = merges[number]
    return install(model, MergingTrunk(parts, steps, weighted_end(model, shape)))


def weighted_end(model: nn.Module, shape: ViTShape) -> WeightedMean | None:
    """The end of a `MergingTrunk` of this model: the one that it has, or a new one where the head reads a mean."""
    trunk: Any = model.blocks
    if isinstance(trunk, MergingTrunk):
        return trunk.end
    if shape.pool != "avg":
        return None
    # The weights belong behind the norm, which would undo them; timm's own place for it stays empty.
    end, model.norm = WeightedMean(model.norm, shape.prefix_tokens), nn.Identity()  # type: ignore[arg-type]
    return end
