"""Attention that depends on where its tokens are, in the parts and under the names of timm's `Attention` and `Block`.

timm's models with rotary positions hand them from block to block, for all the image's tokens. Here every attention has its own, and
takes the places of its tokens with them, so that a block runs on any of them: on a tensor, all the image's tokens in their order; on
`PlacedTokens`, those that are left.

Shapes: B batch, N tokens that enter, Q tokens that are computed, D width, H heads, K head width, E heads times head width, T tokens of
the image (prefix included).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoslim.errors import UnsupportedModelError
from autoslim.models.placed_tokens import PlacedTokens, TokenIndices, Tokens, as_given, gather_tokens, placed, places_at


class Positions(nn.Module):
    """How the logits of an attention depend on the places of its tokens; here not at all.

    `rotates` says whether queries and keys are rotated, in pairs of dimensions; `asks_places`, whether the attention has to be told where
    in the image its tokens are.
    """

    rotates = False
    asks_places = False

    def rotate(self, x_BHNK: Tensor, places: TokenIndices | None) -> Tensor:
        """Queries or keys of the tokens at `places`."""
        return x_BHNK

    def bias(self, of_queries: TokenIndices | None, of_keys: TokenIndices | None, tokens: int) -> Tensor | None:
        """What is added to the logits of queries and keys at these places, (1 or B, H, Q, N); `tokens` are the N keys."""
        return None

    def of_heads(self, heads: Sequence[int]) -> Positions:
        """Those of an attention that has only these heads left."""
        return self


class Rotation(Positions):
    """Rotary positions (arXiv 2104.09864): each pair of dimensions of queries and keys is turned by an angle that its place gives.

    `table_T2K` has the sines, then the cosines; in prefix tokens 0 and 1, which leave them as they are. `half` says that a pair are
    dimensions half a head apart instead of neighbours.
    """

    rotates = asks_places = True

    def __init__(self, table_T2K: Tensor, *, half: bool) -> None:
        super().__init__()
        self.table: Tensor
        self.register_buffer("table", table_T2K, persistent=False)
        # `nn.Module` has a method `half`.
        self.half_apart = half

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Rotation:
        exact = self.table
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # The angles stay in single precision in a model of half precision, as timm's do.
        if self.table.dtype != exact.dtype:
            self.table = exact.to(self.table.device)
        return self

    def rotate(self, x_BHNK: Tensor, places: TokenIndices | None) -> Tensor:
        sin, cos = _rows(self.table, places, x_BHNK.shape[2]).chunk(2, dim=-1)
        return rotated(x_BHNK, sin, cos, half=self.half_apart)


class MixedRotation(Positions):
    """Rotary positions whose frequencies are learned, for each head its own (arXiv 2403.13298).

    `frequencies_2HF` are those along both axes, F half the head width; `places_2T` are the places along these axes, 0 in prefix tokens.
    """

    rotates = asks_places = True

    def __init__(self, frequencies_2HF: Tensor, places_2T: Tensor) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(frequencies_2HF)
        self.axes: Tensor
        self.register_buffer("axes", places_2T, persistent=False)

    def rotate(self, x_BHNK: Tensor, places: TokenIndices | None) -> Tensor:
        first_1N1, second_1N1 = _rows(self.axes.transpose(0, 1), places, x_BHNK.shape[2]).float().chunk(2, dim=-1)
        first_HF, second_HF = self.frequencies.float().unbind(0)
        angle_HNF = first_1N1 * first_HF[:, None, :] + second_1N1 * second_HF[:, None, :]
        # Neighbouring dimensions are a pair, and are turned by the same angle.
        angle_HNK = angle_HNF.unsqueeze(-1).expand(*angle_HNF.shape, 2).flatten(-2)
        return rotated(x_BHNK, angle_HNK.sin(), angle_HNK.cos(), half=False)

    def of_heads(self, heads: Sequence[int]) -> MixedRotation:
        return MixedRotation(self.frequencies.detach()[:, list(heads)].clone(), self.axes)


class RelativeBias(Positions):
    """A bias for each distance between two places and each head (arXiv 1803.02155, as BEiT has it).

    `table_RH` has the biases, `index_TT` the row of each pair of the image's tokens.
    """

    asks_places = True

    def __init__(self, table_RH: Tensor, index_TT: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table_RH)
        self.index: Tensor
        self.register_buffer("index", index_TT, persistent=False)

    def bias(self, of_queries: TokenIndices | None, of_keys: TokenIndices | None, tokens: int) -> Tensor:
        return biases_at(self.table, self.index, of_queries, of_keys, tokens)

    def of_heads(self, heads: Sequence[int]) -> RelativeBias:
        return type(self)(self.table.detach()[:, list(heads)].clone(), self.index)


def biases_at(
    table_RH: Tensor, index_TT: Tensor, of_queries: TokenIndices | None, of_keys: TokenIndices | None, tokens: int
) -> Tensor:
    """The biases of queries and keys at these places, as of `Positions.bias`; `index_TT` has the row of each pair of the image's tokens."""
    every_T = torch.arange(len(index_TT), device=index_TT.device)
    at_keys = _rows(every_T[:, None], of_keys, tokens).squeeze(-1)
    at_queries = at_keys if of_queries is None else _rows(every_T[:, None], of_queries, tokens).squeeze(-1)
    # Pairs as numbers in the flattened index: a lookup by one number is something that every runtime has.
    pair_BQN = at_queries.view(-1, at_queries.shape[-1], 1) * len(every_T) + at_keys.view(-1, 1, at_keys.shape[-1])
    rows = index_TT.flatten().index_select(0, pair_BQN.flatten())
    bias_BQNH = table_RH.index_select(0, rows).view(*pair_BQN.shape, -1)
    return bias_BQNH.permute(0, 3, 1, 2)


def rotated(x_BHNK: Tensor, sin: Tensor, cos: Tensor, *, half: bool) -> Tensor:
    """Each pair (a, b) of dimensions as (a cos - b sin, b cos + a sin); computed in the precision of sin and cos at least."""
    if half:
        a, b = x_BHNK.chunk(2, dim=-1)
        crossed_BHNK = torch.cat((-b, a), dim=-1)
    else:
        pairs = x_BHNK.reshape(*x_BHNK.shape[:-1], -1, 2)
        crossed_BHNK = torch.stack((-pairs[..., 1], pairs[..., 0]), dim=-1).flatten(-2)
    return (x_BHNK * cos + crossed_BHNK * sin).to(x_BHNK.dtype)


def _rows(table_TX: Tensor, places: TokenIndices | None, tokens: int) -> Tensor:
    """The rows of a table at `places`, the same for all heads: (1, N, X), or (B, 1, N, X) where images differ."""
    if places is None:
        if tokens != len(table_TX):
            raise UnsupportedModelError(
                f"attention with positions meets {tokens} of the image's {len(table_TX)} tokens and is not told which; "
                "a step that selects tokens has to hand on their places, as a TokenSelector does"
            )
        return table_TX.unsqueeze(0)
    if isinstance(places, int):
        return table_TX[:places].unsqueeze(0)
    rows = table_TX.index_select(0, places.flatten())
    return rows.view(*places.shape[:-1], 1, places.shape[-1], table_TX.shape[1])


class NoKeyBias(nn.Module):
    """Queries, keys and values in one matrix, (B, N, D) -> (B, N, 3 E), of which the keys have no bias."""

    def __init__(self, weight: nn.Parameter, q_bias: nn.Parameter, v_bias: nn.Parameter) -> None:
        super().__init__()
        self.weight, self.q_bias, self.v_bias = weight, q_bias, v_bias
        self.out_features, self.in_features = weight.shape

    @property
    def bias(self) -> Tensor:
        """That of all three, 0 for the keys."""
        return torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))

    def forward(self, x_BND: Tensor) -> Tensor:
        return functional.linear(x_BND, self.weight, self.bias)


class PositionalAttention(nn.Module):
    """The parts of timm's `Attention`, and `positions`."""

    gate = None

    def __init__(
        self,
        *,
        heads: int,
        head_width: int,
        qkv: nn.Linear | NoKeyBias,
        proj: nn.Linear,
        positions: Positions,
        norms: tuple[nn.Module, nn.Module, nn.Module],
        drops: tuple[float, float],
        fused: bool,
        separate: bool = False,
    ) -> None:
        """`norms` are those on queries, on keys and behind the attention, `drops` the rates of dropout on its weights and at the end.

        `separate` says that timm's model has the matrices of queries, keys and values on their own.
        """
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim = heads, head_width, heads * head_width
        self.scale, self.fused_attn, self.separate = head_width**-0.5, fused, separate
        self.qkv, self.proj, self.positions = qkv, proj, positions
        self.q_norm, self.k_norm, self.norm = norms
        self.attn_drop, self.proj_drop = map(nn.Dropout, drops)

    def forward(self, x_BND: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Of all the image's tokens; see `attend` for some of them."""
        if is_causal:
            raise UnsupportedModelError("attention with positions is not causal")
        return attend(self, x_BND, mask=attn_mask)


def attend(
    attention: Any,
    x_BND: Tensor,
    *,
    rows: TokenIndices | None = None,
    places: TokenIndices | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """timm's attention for the queries of the tokens `rows` (None: all of them), with all of `x_BND` as keys and values: (B, Q, D).

    `places` are those of `x_BND`; `mask` is added to the logits (B, H, Q, N).
    """
    q_BHQK, k_BHNK, v_BHNK, mask = _prepared(attention, x_BND, rows, places, mask)
    dropout = attention.attn_drop.p if attention.training else 0.0
    if attention.fused_attn:
        # The fused kernel takes fewer queries than keys as they are; its default scale is timm's.
        out_BHQK = functional.scaled_dot_product_attention(q_BHQK, k_BHNK, v_BHNK, attn_mask=mask, dropout_p=dropout)
    else:
        out_BHQK = attention.attn_drop(_weights(attention, q_BHQK, k_BHNK, mask)) @ v_BHNK
    out_BQHK = out_BHQK.transpose(1, 2)
    if mask is not None and torch.compiler.is_exporting():
        # The fused kernel leaves its result in another order in memory than the operators that an exporter replaces it by.
        out_BQHK = out_BQHK.clone(memory_format=torch.contiguous_format)
    return _projected(attention, out_BQHK)


def weights_and_values(
    attention: Any, x_BND: Tensor, *, places: TokenIndices | None = None, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What `attend` computes for all queries and keeps to itself: the softmax (B, H, N, N), rows are queries; and values (B, H, N, K)."""
    q_BHNK, k_BHNK, v_BHNK, mask = _prepared(attention, x_BND, None, places, mask)
    return _weights(attention, q_BHNK, k_BHNK, mask), v_BHNK


def weighted_values(attention: Any, weights_BHQN: Tensor, v_BHNK: Tensor) -> Tensor:
    """The rest of `attend`, for the queries whose rows of the softmax are given: (B, Q, D)."""
    return _projected(attention, (attention.attn_drop(weights_BHQN) @ v_BHNK).transpose(1, 2))


def _prepared(
    attention: Any, x_BND: Tensor, rows: TokenIndices | None, places: TokenIndices | None, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Queries, keys and values with norms and positions, and the mask with the positions' bias."""
    q_BHQK, k_BHNK, v_BHNK = _split(attention, x_BND, rows)
    q_BHQK, k_BHNK = attention.q_norm(q_BHQK), attention.k_norm(k_BHNK)
    positions = getattr(attention, "positions", None)
    if positions is not None:
        of_queries = places if rows is None else places_at(places, rows)
        q_BHQK, k_BHNK = positions.rotate(q_BHQK, of_queries), positions.rotate(k_BHNK, places)
        bias = positions.bias(of_queries, places, x_BND.shape[1])
        mask = mask if bias is None else bias if mask is None else bias + mask
    return q_BHQK, k_BHNK, v_BHNK, mask


def _weights(attention: Any, q_BHQK: Tensor, k_BHNK: Tensor, mask: Tensor | None) -> Tensor:
    score_BHQN = q_BHQK * attention.scale @ k_BHNK.transpose(-2, -1)
    weights_BHQN: Tensor = (score_BHQN if mask is None else score_BHQN + mask).softmax(dim=-1)
    return weights_BHQN


def _projected(attention: Any, out_BQHK: Tensor) -> Tensor:
    out_BQE = attention.norm(out_BQHK.flatten(2))
    out: Tensor = attention.proj_drop(attention.proj(out_BQE))
    return out


def _split(attention: Any, x_BND: Tensor, rows: TokenIndices | None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of `rows`, keys and values of all tokens, (B, H, tokens, K) each."""
    heads, width = attention.num_heads, attention.head_dim
    if rows is None:
        q_BHNK, k_BHNK, v_BHNK = attention.qkv(x_BND).view(*x_BND.shape[:2], 3, heads, width).permute(2, 0, 3, 1, 4).unbind(0)
        return q_BHNK, k_BHNK, v_BHNK
    inner = heads * width
    weight, bias = attention.qkv.weight, attention.qkv.bias
    # timm packs the weights of queries, keys and values: the first third belongs to the queries.
    q_BQE = functional.linear(gather_tokens(x_BND, rows), weight[:inner], None if bias is None else bias[:inner])
    kv_BNE = functional.linear(x_BND, weight[inner:], None if bias is None else bias[inner:])
    k_BHNK, v_BHNK = kv_BNE.view(*kv_BNE.shape[:2], 2, heads, width).permute(2, 0, 3, 1, 4).unbind(0)
    return q_BQE.view(*q_BQE.shape[:2], heads, width).transpose(1, 2), k_BHNK, v_BHNK


class PositionalBlock(nn.Module):
    """The parts of timm's `Block` under its names; tokens with places come out with places, a tensor as a tensor.

    With `norms_behind`, norms are applied to what the sub-layers compute instead of what they read.
    """

    def __init__(self, parts: dict[str, nn.Module], *, norms_behind: bool = False) -> None:
        super().__init__()
        self.norms_behind = norms_behind
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, tokens: Tokens, attn_mask: Tensor | None = None, is_causal: bool = False, **unused: None) -> Tokens:
        """`unused` are the positions that timm's model hands to its blocks: none, because every attention has its own."""
        x_BND, places = placed(tokens)
        out_BND = self.add_branches(x_BND, lambda read_BND: attention_of(self, read_BND, places, attn_mask))
        return as_given(PlacedTokens(out_BND, places), tokens)

    def add_branches(self, x_BND: Tensor, attention: Callable[[Tensor], Tensor]) -> Tensor:
        """The tokens with what `attention` and then the MLP add to them."""
        part: Any = self
        if self.norms_behind:
            x_BND = x_BND + part.drop_path1(part.ls1(part.norm1(attention(x_BND))))
            return x_BND + part.drop_path2(part.ls2(part.norm2(part.mlp(x_BND))))  # type: ignore[no-any-return]
        x_BND = x_BND + part.drop_path1(part.ls1(attention(part.norm1(x_BND))))
        return x_BND + part.drop_path2(part.ls2(part.mlp(part.norm2(x_BND))))  # type: ignore[no-any-return]


def attention_of(block: Any, normed_BND: Tensor, places: TokenIndices | None, mask: Tensor | None = None) -> Tensor:
    """The attention of a block of whichever kind on normed tokens; places reach one that knows them."""
    if isinstance(block.attn, PositionalAttention):
        return attend(block.attn, normed_BND, places=places, mask=mask)
    out: Tensor = block.attn(normed_BND, attn_mask=mask)
    return out


def has_positions(block: Any) -> bool:
    """Whether the block has to be told where its tokens are."""
    attention = getattr(block, "attn", None)
    return isinstance(attention, PositionalAttention) and attention.positions.asks_places
