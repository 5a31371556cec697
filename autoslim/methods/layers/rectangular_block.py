"""Blocks that compute some of their tokens only: rectangular attention.

Queries, residual and MLP of the tokens that a `TokenSelector` selects; keys and values of all that enter. The result equals the same
rows of the whole block. With the prefix tokens alone in the last block, this is the class query that any method may end with.

Shapes: B batch, N tokens that enter, Q tokens that are computed, D width, H heads, K head width, E heads times head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from autoslim.methods.layers.stored_names import StoredNames
from autoslim.methods.layers.sublayer import RemovedSublayer
from autoslim.methods.layers.token_selector import FirstTokens, TokenIndices, TokenSelector, gather_tokens
from autoslim.methods.layers.token_trunk import Trunk, blocks_of, install


class RectangularBlock(StoredNames):
    """Takes over a timm block's parts under their own names; `selector` sees the tokens as they come in."""

    stored_names: ClassVar[dict[str, str]] = {"selector": "pick"}

    def __init__(self, block: Any, selector: TokenSelector) -> None:
        super().__init__()
        self.selector = selector
        self.norm1, self.attn, self.ls1, self.drop_path1 = block.norm1, block.attn, block.ls1, block.drop_path1
        self.norm2, self.mlp, self.ls2, self.drop_path2 = block.norm2, block.mlp, block.ls2, block.drop_path2

    def forward(self, x_BND: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """`attn_mask` is the additive mask (B, 1, 1, N) of an adaptive trunk; `Stage` refuses a caller's."""
        return block_rows(self, x_BND, self.selector.rows(x_BND), attn_mask)

    def token_map(self, x_BND: Tensor) -> Tensor:
        return self.selector.token_map(x_BND)


def block_rows(
    block: Any, x_BND: Tensor, rows: TokenIndices, mask_B11N: Tensor | None = None, residual_BQD: Tensor | None = None
) -> Tensor:
    """The tokens `rows` (B, Q, D) of a timm block's output; `block` has timm's parts under timm's names.

    `residual_BQD` takes the place of these tokens in the block's residual sum.
    """
    normed_BND = block.norm1(x_BND)
    # Every token that enters is a key, so that all are normalised; the queries are rows of the same result.
    attended_BQD = rectangular_attention(block.attn, gather_tokens(normed_BND, rows), normed_BND, mask_B11N)
    residual_BQD = gather_tokens(x_BND, rows) if residual_BQD is None else residual_BQD
    x_BQD = residual_BQD + block.drop_path1(block.ls1(attended_BQD))
    out: Tensor = x_BQD + block.drop_path2(block.ls2(block.mlp(block.norm2(x_BQD))))
    return out


def rectangular_attention(attention: Any, queries_BQD: Tensor, x_BND: Tensor, mask_B11N: Tensor | None = None) -> Tensor:
    """timm's `Attention` with the queries of `queries_BQD` and the keys and values of `x_BND`: (B, Q, D)."""
    if isinstance(attention, RemovedSublayer):
        constant_BQD: Tensor = attention(queries_BQD)
        return constant_BQD
    heads, width = attention.num_heads, attention.head_dim
    inner = heads * width
    weight, bias = attention.qkv.weight, attention.qkv.bias
    # timm packs the weights of queries, keys and values: the first third belongs to the queries.
    q_BQE = functional.linear(queries_BQD, weight[:inner], None if bias is None else bias[:inner])
    kv_BNE = functional.linear(x_BND, weight[inner:], None if bias is None else bias[inner:])
    batch, tokens = q_BQE.shape[:2]
    q_BHQK = q_BQE.reshape(batch, tokens, heads, width).transpose(1, 2)
    k_BHNK, v_BHNK = kv_BNE.reshape(batch, x_BND.shape[1], 2, heads, width).permute(2, 0, 3, 1, 4).unbind(0)
    q_BHQK, k_BHNK = attention.q_norm(q_BHQK), attention.k_norm(k_BHNK)
    dropout = attention.attn_drop.p if attention.training else 0.0
    if attention.fused_attn:
        # The fused kernel takes fewer queries than keys as they are; its default scale is timm's.
        out_BHQK = functional.scaled_dot_product_attention(q_BHQK, k_BHNK, v_BHNK, attn_mask=mask_B11N, dropout_p=dropout)
    else:
        score_BHQN = q_BHQK * attention.scale @ k_BHNK.transpose(-2, -1)
        weights_BHQN = (score_BHQN if mask_B11N is None else score_BHQN + mask_B11N).softmax(dim=-1)
        out_BHQK = attention.attn_drop(weights_BHQN) @ v_BHNK
    out_BQE = attention.norm(out_BHQK.transpose(1, 2).reshape(batch, tokens, inner))
    out: Tensor = attention.proj_drop(attention.proj(out_BQE))
    return out


def install_rectangular(model: nn.Module, blocks: list[nn.Module], selectors: Mapping[int, TokenSelector]) -> nn.Module:
    """Gives each block in `selectors` its selector: inside, or in front of a block without attention."""
    parts: list[nn.Module] = []
    steps: dict[int, nn.Module] = {}
    for number, block in enumerate(blocks):
        parts.append(block)
        if number not in selectors:
            continue
        # Without attention there are no keys for which the block would have to see the removed patches.
        if isinstance(block.attn, RemovedSublayer):
            steps[number] = selectors[number]
        else:
            parts[-1] = RectangularBlock(block, selectors[number])
    return install(model, Trunk(parts, steps))


def class_query_last(model: nn.Module, prefix_tokens: int) -> nn.Module:
    """Lets the last block compute the prefix tokens alone, in place; a head with pooling `token` reads nothing else."""
    trunk: Any = model.blocks
    if not isinstance(trunk, Trunk):
        trunk = Trunk(blocks_of(model), {})
        install(model, trunk)
    last: Any = trunk.stages[-1]
    # The block alone is replaced: a step in front of it stays.
    last.block = RectangularBlock(last.block, FirstTokens(prefix_tokens))
    return model
