"""Merging: tokens that go join the nearest that stay, and every token carries its size, the number of patches it stands for.

A token that goes is not lost but averaged into the token that stays whose content is most like its own: the mean of a group's tokens,
weighted by their sizes. As a key a token counts as often as its size, exp(q k + log s) = s exp(q k), so that a group of equal tokens
takes part in a softmax exactly as its members did; a head that averages patches weights them by their sizes, too. Merging tokens that
are equal therefore leaves a model's output as it was.

What goes is decided elsewhere, by a `TokenSelector`; here is what happens to it. Everything has static shapes and is a comparison, a
sort, a gather or a matrix product, so that every runtime takes it: no scatter, no boolean index.

Shapes: B batch, N tokens that enter (prefix included), P of them patches, K tokens that stay, S patches that stay, G patches that go,
D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from autoslim.core.plan import Extra
from autoslim.core.recipe import Knobs
from autoslim.core.shape import ViTShape
from autoslim.errors import UnsupportedModelError
from autoslim.methods.knob import Knob
from autoslim.methods.layers.backbone import install
from autoslim.methods.layers.rectangular_block import block_rows
from autoslim.methods.layers.sublayer import RemovedSublayer
from autoslim.methods.layers.token_selector import FirstTokens, TokenSelector
from autoslim.methods.layers.token_trunk import Stage, Trunk, refuse_mask, run_block, tokens_alone
from autoslim.methods.layers.tokens import key_mask, order_by
from autoslim.models.placed_tokens import TokenIndices, gather_tokens, places_at

MERGING = "token merging"
"""The name of joining tokens in a plan and in a latency table."""

DEAD = Knob(
    kind="choice",
    help="patches that go are dropped (paper), or join the most similar of those that stay",
    default="drop",
    choices=("drop", "merge"),
)
"""The knob `dead` of methods whose papers drop patches."""

_LEAST = 1e-12
"""Keeps the squared length of a token of equal elements above 0."""


class SizedTokens(NamedTuple):
    """Tokens (B, N, D) and how many patches each stands for (B, N); None: nothing is merged yet, so each stands for itself.

    A prefix token has size 1. `places` are as in `PlacedTokens`; a group is where the token is that the others have joined.
    Sizes are in single precision at least, which is exact for them, whatever the precision of the tokens.
    """

    x_BND: Tensor
    size_BN: Tensor | None
    places: TokenIndices | None = None

    def sizes(self) -> Tensor:
        if self.size_BN is not None:
            return self.size_BN
        return torch.ones_like(self.x_BND[..., 0], dtype=torch.promote_types(self.x_BND.dtype, torch.float32))

    def mask_B11N(self) -> Tensor | None:
        """The additive attention mask under which each key counts as often as its size; None where all sizes are 1."""
        return None if self.size_BN is None else key_mask(self.size_BN.log()).to(self.x_BND.dtype)

    def at(self, rows: TokenIndices) -> SizedTokens:
        """The tokens `rows`, in that order; what the others stand for is gone."""
        size_BK = None if self.size_BN is None else gather_tokens(self.size_BN.unsqueeze(-1), rows).squeeze(-1)
        return SizedTokens(gather_tokens(self.x_BND, rows), size_BK, places_at(self.places, rows))


class Groups:
    """Which patches go, and which of those that stay each of them joins.

    `rows` are the tokens that stay, prefix first. No gradient passes through the choice.
    """

    def __init__(self, x_BND: Tensor, rows: TokenIndices, num_prefix_tokens: int) -> None:
        self.rows, self.prefix = rows, num_prefix_tokens
        self.goes = indices_left_out(rows, x_BND)
        # A selector that only sorts leaves out nothing.
        self.joins_BSG = self._nearest(x_BND.detach()) if self.goes.shape[-1] else None

    def _nearest(self, x_BND: Tensor) -> Tensor:
        """(B, S, G), 1 where patch g, which goes, joins patch s, and 0 elsewhere."""
        unit_BND = unit_length(x_BND)
        stay_BSD = gather_tokens(unit_BND, self.rows)[:, self.prefix :]
        cosine_BGS = gather_tokens(unit_BND, self.goes) @ stay_BSD.transpose(1, 2)
        number_S = torch.arange(stay_BSD.shape[1], device=x_BND.device)
        # A comparison instead of a scatter with reduction, which not every runtime has.
        return (cosine_BGS.argmax(dim=2)[:, None, :] == number_S[None, :, None]).to(x_BND.dtype)

    def merge(self, tokens: SizedTokens) -> SizedTokens:
        """The tokens `rows`, each the mean of its group, weighted by the sizes: (B, K, D); and the groups' sizes (B, K)."""
        x_BND, size_BN1 = tokens.x_BND, tokens.sizes().unsqueeze(-1)
        places = places_at(tokens.places, self.rows)
        stay_BKD, stay_BK1 = gather_tokens(x_BND, self.rows), gather_tokens(size_BN1, self.rows)
        if self.joins_BSG is None:
            return SizedTokens(stay_BKD, stay_BK1.squeeze(-1), places)
        go_BGD, go_BG1 = gather_tokens(x_BND, self.goes), gather_tokens(size_BN1, self.goes)
        # Sizes are summed without a matrix product, which mixed precision would round.
        joined_BS1 = (self.joins_BSG * go_BG1.transpose(1, 2)).sum(dim=2, keepdim=True)
        own_BS1 = stay_BK1[:, self.prefix :]
        size_BS1 = own_BS1 + joined_BS1
        # What joins is added to what stays, so that a patch that nothing joins is not rounded either.
        content_BSD = self.joins_BSG @ (go_BGD * go_BG1.to(x_BND.dtype))
        own_BSD = stay_BKD[:, self.prefix :] * (own_BS1 / size_BS1).to(x_BND.dtype)
        mean_BSD = own_BSD + content_BSD / size_BS1.to(x_BND.dtype)
        merged_BKD = torch.cat((stay_BKD[:, : self.prefix], mean_BSD), dim=1)
        return SizedTokens(merged_BKD, torch.cat((stay_BK1[:, : self.prefix], size_BS1), dim=1).squeeze(-1), places)


def indices_left_out(rows: TokenIndices, x_BND: Tensor) -> Tensor:
    """The indices of the tokens (B, N, D) that are not in `rows`, rising: (G,) or (B, G)."""
    tokens = x_BND.shape[1]
    number_N = torch.arange(tokens, device=x_BND.device)
    if isinstance(rows, int):
        return number_N[rows:]
    index_BK = rows.expand(1, -1) if rows.ndim == 1 else rows
    goes_BN = ((index_BK[:, :, None] == number_N).sum(dim=1) == 0).to(torch.float32)
    # A sort brings those that go to the front, where a boolean index would have a shape that depends on the data.
    left_BG = order_by(goes_BN)[:, : tokens - index_BK.shape[1]]
    return left_BG[0] if rows.ndim == 1 else left_BG


def unit_length(x_BND: Tensor) -> Tensor:
    """Each token centred, as LayerNorm without parameters does, and of length 1, so that products are cosines."""
    # The square of a large token's length is beyond half precision.
    single_BND = x_BND.to(torch.promote_types(x_BND.dtype, torch.float32))
    centred_BND = single_BND - single_BND.mean(dim=-1, keepdim=True)
    return (centred_BND * (centred_BND.square().sum(dim=-1, keepdim=True) + _LEAST).rsqrt()).to(x_BND.dtype)


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

    def groups(self, x_BND: Tensor) -> Groups:
        return Groups(x_BND, self.selector.rows(x_BND), self.num_prefix_tokens)

    def forward(self, tokens: SizedTokens) -> SizedTokens:
        return self.groups(tokens.x_BND).merge(tokens)

    def token_map(self, tokens: SizedTokens) -> Tensor:
        """Which entering tokens each token that stays is made of: (B, K, N), rows that sum to 1."""
        x_BND, size_BN, _ = tokens
        batch, entering, _ = x_BND.shape
        # Merging is linear in the tokens: what it does to the identity is its map.
        identity_BNN = torch.eye(entering, dtype=x_BND.dtype, device=x_BND.device).expand(batch, -1, -1)
        return self.groups(x_BND).merge(SizedTokens(identity_BNN, size_BN)).x_BND


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
        groups = self.merge.groups(tokens.x_BND)
        merged = groups.merge(tokens)
        # The keys are the tokens that enter, so the mask has their sizes; the residual is what leaves.
        x_BKD = block_rows(self, tokens.x_BND, groups.rows, tokens.mask_B11N(), residual_BQD=merged.x_BND, places=tokens.places)
        return merged._replace(x_BND=x_BKD)

    def token_map(self, tokens: SizedTokens) -> Tensor:
        return self.merge.token_map(tokens)


class MergingStage(Stage):
    """One block, and what changes the sized tokens in front of it (None: they pass unchanged)."""

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
    """A trunk whose tokens carry their sizes from end to end; `end` is a `WeightedMean`, or None where the head reads no mean."""

    def __init__(self, blocks: list[nn.Module], steps: Mapping[int, nn.Module], end: WeightedMean | None) -> None:
        super().__init__(blocks, steps)
        self.stages = nn.ModuleList(MergingStage(block, steps.get(index)) for index, block in enumerate(blocks))
        self.end = end

    def __iter__(self) -> Iterator[Any]:
        """A flat sequence of steps, as timm's gradient checkpointing needs."""
        yield _with_sizes
        yield from self.stages
        yield tokens_alone if self.end is None else self.end

    def final_norm(self, model: Any) -> nn.Module:
        return super().final_norm(model) if self.end is None else self.end.norm


def _with_sizes(x_BND: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, **unused: None) -> SizedTokens:
    refuse_mask(attn_mask, is_causal)
    return SizedTokens(x_BND, None)


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
    """Makes each block in `selectors` merge what its selector leaves out: `inside` the block, or in front of it.

    A block without attention has no keys that could still be read, so that it merges in front in any case.
    """
    parts: list[nn.Module] = []
    steps: dict[int, MergeInto] = {}
    for number, block in enumerate(blocks):
        parts.append(block)
        if number not in selectors:
            continue
        merge = MergeInto(selectors[number], shape.prefix_tokens)
        if inside and not isinstance(block.attn, RemovedSublayer):
            parts[-1] = MergingBlock(block, merge)
        else:
            steps[number] = merge
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
