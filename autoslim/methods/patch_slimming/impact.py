"""The impact score of Patch Slimming (CVPR 2022, arXiv 2106.02852, Theorem 1 and Eq. 6), by a recursion instead of a sum over paths.

Patch i of block t's output matters as much as what later attention passes from it to the tokens that the head reads, times what block
t's attention has put into it:

    s_t,i = sum over head paths h of |A_t^h[:, i] U_t^h[i, :]|_F^2,  A_t^h = prod_{l > t} diag(m_l) P_l^h_l,  U_t^h = P_t^h |Z_{t-1}|

with P_l^h the attention of head h in block l, m_l the mask of block l's output and Z_l its tokens. The norm of an outer product is the
product of the norms, so that the sum over all H^(L-t) paths factors: G_t, the sum of A^T A, follows from block to block, and
s_t = diag(G_t) * sum_h |U_t^h[i, :]|^2.

Ours, not the paper's:

- Both sums go over all heads. Whether the paper ties the head of U to the path's could not be verified.
- Means over the heads replace the sums, which keeps the ranking and cannot overflow.
- With average pooling the head reads all patches, so that the recursion starts from all of them with equal weight.
- With `residual` paths a token may also stay where it is from block to block.

Attention maps are computed explicitly, for these scores alone; nothing here runs in a finished model.

Shapes: B images, N tokens (prefix included), P patches, D width, H heads, K head width, L blocks.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.core import activity
from autoslim.core.shape import ViTShape
from autoslim.methods.layers.sublayer import RemovedSublayer
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.methods.patch_slimming.coverage import CoverageOrder
from autoslim.models.placed_tokens import PlacedTokens, placed
from autoslim.models.positional import PositionalAttention

CACHE_BYTES = 2**30
"""Memory for the cached inputs of all blocks and the paths G, 1 GiB; it decides how many images the scores are measured on."""

_BATCH = 32
"""Images in a pass where memory allows it."""

MAP_BYTES = 2**28
"""Memory for the attention maps (B, H, N, N) of a batch, 256 MiB in float32. A step of the recursion has three times as much."""

_MAPS_KEPT = 2
"""Batches whose attention maps are kept from `scores` to `keep`; those of further batches are computed twice, to bound memory."""


def attention_maps(attention: Any, normed_BND: Tensor) -> Tensor:
    """The softmax of timm's `Attention`: (B, H, N, N), rows are queries."""
    batch, tokens, _ = normed_BND.shape
    # The steps of timm's attention one by one, because its fused kernel never holds the softmax.
    qkv_BNE = attention.qkv(normed_BND)
    q_BHNK, k_BHNK, _ = (
        qkv_BNE.reshape(batch, tokens, 3, attention.num_heads, attention.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
    )
    q_BHNK, k_BHNK = attention.q_norm(q_BHNK), attention.k_norm(k_BHNK)
    if isinstance(attention, PositionalAttention):
        q_BHNK, k_BHNK = attention.positions.rotate(q_BHNK, None), attention.positions.rotate(k_BHNK, None)
    logits_BHNN = q_BHNK * attention.scale @ k_BHNK.transpose(-2, -1)
    if isinstance(attention, PositionalAttention) and (bias := attention.positions.bias(None, None, tokens)) is not None:
        logits_BHNN = logits_BHNN + bias
    maps: Tensor = logits_BHNN.softmax(dim=-1)
    return maps


def inflow(maps_BHNN: Tensor, x_BND: Tensor) -> Tensor:
    """The second factor of Eq. 6, |U^h[i, :]|^2 = |P^h |Z||^2 for each token, its mean over the heads: (B, N)."""
    return (maps_BHNN @ x_BND.abs().unsqueeze(1)).square().sum(dim=-1).mean(dim=1)


def propagate_paths(paths_BNN: Tensor, maps_BHNN: Tensor, mask_BN: Tensor, *, residual: bool = False) -> Tensor:
    """One step of the recursion for the first factor of Eq. 6: G of block l-1 from G of block l, (B, N, N).

    The mean over the heads of (P^h)^T diag(m) G diag(m) P^h. With `residual`, diag(m) G diag(m) is added: the path that a token's own
    residual takes around the block.
    """
    # Tokens that the block does not put out pass nothing on: their rows and columns of G become 0.
    masked_BNN = mask_BN.unsqueeze(2) * paths_BNN * mask_BN.unsqueeze(1)
    # Paths through different heads add up in G, so that one product a block covers all H^(L-t) of them.
    up_BNN = (maps_BHNN.transpose(-2, -1) @ (masked_BNN.unsqueeze(1) @ maps_BHNN)).mean(dim=1)
    return up_BNN + masked_BNN if residual else up_BNN


def read_by_head(shape: ViTShape, like: Tensor) -> Tensor:
    """The start of the recursion, diag(G_L): 1 for the tokens that the head reads, (N,), of the type of `like` and where that is."""
    # Made on the device: a copy to a GPU would be waited for in every step that trains scorers.
    read_N = like.new_zeros(shape.tokens)
    if shape.reads_prefix_alone:
        # A distilled DeiT's second classifier reads the distillation token.
        read_N[: shape.classifiers] = 1
    else:
        read_N[shape.prefix_tokens :] = 1
    return read_N


def batch_of_maps(heads: int, tokens: int) -> int:
    """How many images' attention maps are in memory at once."""
    return max(1, min(_BATCH, MAP_BYTES // (4 * heads * tokens**2)))


@torch.no_grad()
def tokens_between_blocks(model: nn.Module, images_B3HW: Tensor, *, places: Sequence[int] | None = None) -> list[Tensor]:
    """The tokens (B, N, D) that enter each block of a dense model, and last those that leave it: depth + 1 of them.

    With `places`, only those of them are returned.
    """
    # Attention that is not fused holds its maps, too.
    vit: Any = model
    heads = max(getattr(block.attn, "num_heads", 1) for block in blocks_of(model))
    batch = batch_of_maps(heads, vit.patch_embed.num_patches + vit.num_prefix_tokens)
    parts = []
    for batch_B3HW in torch.split(images_B3HW, batch):
        activity.mark()
        tokens = _trace(model, batch_B3HW)
        parts.append(tokens if places is None else [tokens[place] for place in places])
    return [torch.cat(tokens) for tokens in zip(*parts, strict=True)]


def _trace(model: nn.Module, images_B3HW: Tensor) -> list[Tensor]:
    tokens: list[Tensor] = []

    def note_input(block: nn.Module, args: tuple[Tensor, ...]) -> None:
        tokens.append(placed(args[0]).x_BND)

    def note_output(block: nn.Module, args: tuple[Tensor, ...], output: Tensor | PlacedTokens) -> None:
        tokens.append(placed(output).x_BND)

    blocks = blocks_of(model)
    hooks = [block.register_forward_pre_hook(note_input) for block in blocks]
    hooks.append(blocks[-1].register_forward_hook(note_output))
    try:
        model(images_B3HW)
    finally:
        for hook in hooks:
            hook.remove()
    return tokens


def images_to_measure(shape: ViTShape) -> int:
    """How many images' tokens between all blocks and paths (N, N), in float32, fit into `CACHE_BYTES`; at most 512.

    The paper averages over a random subset of the training images and does not state its size.
    """
    elements = (shape.depth + 1) * shape.tokens * shape.dim + shape.tokens**2
    return max(1, min(512, CACHE_BYTES // (4 * elements)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chain:
    """Scores and masks of every block: `scores` (L, P), or (L, B, P) per image, and boolean `masks` of the same shape."""

    scores: Tensor
    masks: Tensor


def best_mask(score_BP: Tensor, inherited_BP: Tensor, count: int) -> Tensor:
    """The mask (B, P) of `count` patches: those inherited from the next block, then the highest scores; ties in reading order."""
    # Ranks are at most 1, so that an inherited patch, which gets 2 more, precedes every other.
    first_BP = inherited_BP.to(score_BP) * 2 + _rank01(score_BP)
    order_BP = first_BP.argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(inherited_BP).scatter(-1, order_BP[..., :count], True)


def _rank01(score_BP: Tensor) -> Tensor:
    """Scores as ranks in (0, 1], so that they can be added to a mask at any scale of the scores."""
    order_BP = score_BP.argsort(dim=-1, descending=True, stable=True)
    steps_P = torch.linspace(1, 0, score_BP.shape[-1] + 1, device=score_BP.device, dtype=score_BP.dtype)[:-1]
    return torch.zeros_like(score_BP).scatter(-1, order_BP, steps_P.expand_as(score_BP))


class Descent:
    """The recursion from the last block to the first: for each block first `scores`, then `keep` with the mask that was chosen.

    `tokens` are those of `tokens_between_blocks`. The masks are one for all images or, with `own`, one per image. `paths` is `paper`,
    the formula as published, or `residual` (ours), in which a path may go around a block. `inherited` is the mask of the block behind,
    which the next mask has to contain.
    """

    def __init__(self, blocks: list[nn.Module], tokens: list[Tensor], shape: ViTShape, *, paths: str, own: bool = False) -> None:
        self.prefix, self.residual, self.own = shape.prefix_tokens, paths == "residual", own
        self._batch = batch_of_maps(shape.heads, shape.tokens)
        self._left = list(zip(blocks, (torch.split(x_BND, self._batch) for x_BND in tokens[:-1]), strict=True))
        # G_L is diag(m_L), the same for every image until its own attention comes in.
        read_N = read_by_head(shape, tokens[0])
        self._paths = [torch.diag(read_N).expand(len(part), -1, -1) for part in self._left[-1][1]]
        self._maps: list[Tensor] = []
        masks = (len(tokens[0]), shape.patches) if own else (shape.patches,)
        self.inherited = torch.zeros(masks, dtype=torch.bool, device=read_N.device)

    def scores(self) -> Tensor:
        """Eq. 6 for the patches that the current block puts out, per image: (B, P)."""
        block, parts = self._left[-1]
        scored = []
        self._maps = []
        for number, (x_BND, g_BNN) in enumerate(zip(parts, self._paths, strict=True)):
            maps_BHNN = maps_of(block, x_BND)
            scored.append(score(maps_BHNN, x_BND, g_BNN))
            if number < _MAPS_KEPT:
                self._maps.append(maps_BHNN)
        return torch.cat(scored)[:, self.prefix :]

    def keep(self, mask: Tensor) -> None:
        """Sets the mask (B, P) or (P,) of the current block's output and moves on to the block before it."""
        self.inherited = mask
        block, parts = self._left.pop()
        images = sum(len(x_BND) for x_BND in parts)
        masks = torch.split(_with_prefix(mask, self.prefix, dtype=parts[0].dtype).expand(images, -1), self._batch)
        # Maps that `scores` has kept come first, the others are computed again.
        maps, self._maps = itertools.chain(self._maps, (maps_of(block, x_BND) for x_BND in parts[len(self._maps) :])), []
        self._paths = [
            propagate_paths(g_BNN, maps_BHNN, mask_BN, residual=self.residual)
            for g_BNN, maps_BHNN, mask_BN in zip(self._paths, maps, masks, strict=True)
        ]


@torch.no_grad()
def find_masks(
    blocks: list[nn.Module],
    tokens: list[Tensor],
    shape: ViTShape,
    counts: list[int],
    *,
    paths: str,
    places: str = "score",
    own: bool = False,
) -> Chain:
    """Nested masks of `counts` patches per block, found from the last block to the first, each a superset of the next block's.

    With pooling `token` nothing reads the last block's patches: the recursion starts without any, and that block gets the mask of the
    block before. `places` is as in `order_of`; with `own`, one mask per image, patches are always kept by score.
    """
    descent = Descent(blocks, tokens, shape, paths=paths, own=own)
    scores, masks = [], []
    # Last block first: the score of a block depends on the masks behind it, through G.
    for number, count in reversed(list(enumerate(counts))):
        score_BP = descent.scores()
        if shape.reads_prefix_alone and number == shape.depth - 1:
            mask = descent.inherited
        elif own:
            mask = best_mask(score_BP, descent.inherited, count)
        else:
            patches_BPD = tokens[number + 1][:, shape.prefix_tokens :]
            mask = order_of(score_BP, patches_BPD, descent.inherited, places=places).mask(count)
        # Averaged over the images as in the paper, except where every image has masks of its own.
        scores.append(score_BP if own else score_BP.mean(dim=0))
        masks.append(mask)
        descent.keep(mask)
    if shape.reads_prefix_alone and len(counts) > 1:
        # The masks still are in the order of the search: the first one is the last block's.
        masks[0] = masks[1]
    return Chain(scores=torch.stack(scores[::-1]), masks=torch.stack(masks[::-1]))


class PatchOrder:
    """The order in which a block's patches are kept, inherited ones first. `first` tells the first patches of it, as far as asked."""

    def __init__(self, first: Callable[[int], list[int]], inherited_P: Tensor) -> None:
        self._first, self._inherited_P = first, inherited_P

    def mask(self, count: int) -> Tensor:
        """The mask (P,) of the first `count` patches."""
        index = torch.tensor(self._first(count), dtype=torch.long, device=self._inherited_P.device)
        return torch.zeros_like(self._inherited_P).index_fill(0, index, True)


def order_of(score_BP: Tensor, patches_BPD: Tensor, inherited_P: Tensor, *, places: str) -> PatchOrder:
    """The order in which a block's patches are kept: `score`, by mean score, or `cover`, by `CoverageOrder`."""
    if places == "cover":
        return PatchOrder(CoverageOrder(score_BP, patches_BPD, inherited_P).first, inherited_P)
    ranked_P = (inherited_P.to(score_BP) * 2 + _rank01(score_BP.mean(dim=0))).argsort(descending=True, stable=True)
    ranked: list[int] = ranked_P.tolist()
    return PatchOrder(lambda count: ranked[:count], inherited_P)


def score(maps_BHNN: Tensor, x_BND: Tensor, paths_BNN: Tensor) -> Tensor:
    """Eq. 6 for all tokens that a block puts out, from its attention, its input and its G: (B, N)."""
    return paths_BNN.diagonal(dim1=-2, dim2=-1) * inflow(maps_BHNN, x_BND)


def maps_of(block: Any, x_BND: Tensor) -> Tensor:
    """A block's attention (B, H, N, N) on its input; the identity where an earlier step has removed its attention."""
    activity.mark()
    if isinstance(block.attn, RemovedSublayer):
        return torch.eye(x_BND.shape[1], dtype=x_BND.dtype, device=x_BND.device).expand(len(x_BND), 1, -1, -1)
    return attention_maps(block.attn, block.norm1(x_BND))


def _with_prefix(mask_BP: Tensor, prefix: int, *, dtype: torch.dtype) -> Tensor:
    """A mask of patches extended to all tokens; prefix tokens are always kept."""
    return torch.cat((mask_BP.new_ones(*mask_BP.shape[:-1], prefix), mask_BP), dim=-1).to(dtype)
