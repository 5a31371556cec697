"""Blocks that compute some of their tokens only: rectangular attention.

Queries, residual and MLP of the tokens that a `Pick` names; keys and values of all that come in. What is computed equals the same
rows of the whole block. With the prefix tokens alone in the last block this is the class query that any method may end with.

Shapes: B batch, N tokens that come in, Q tokens that are computed, D width, H heads, K head width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from autoslim.methods.pick import First, Pick, take
from autoslim.methods.trunk import Trunk, blocks_of, install, refuse_mask, steps_of


class RowBlock(nn.Module):
    """Takes a timm block's parts over, under the same names; `pick` sees the tokens as they come in."""

    def __init__(self, block: Any, pick: Pick) -> None:
        super().__init__()
        self.pick = pick
        self.norm1, self.attn, self.ls1, self.drop_path1 = block.norm1, block.attn, block.ls1, block.drop_path1
        self.norm2, self.mlp, self.ls2, self.drop_path2 = block.norm2, block.mlp, block.ls2, block.drop_path2

    def forward(self, x_BND: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        refuse_mask(attn_mask, is_causal)
        rows = self.pick.rows(x_BND)
        normed_BND = self.norm1(x_BND)
        attended_BQD = rectangular_attention(self.attn, take(normed_BND, rows), normed_BND)
        x_BQD = take(x_BND, rows) + self.drop_path1(self.ls1(attended_BQD))
        out: Tensor = x_BQD + self.drop_path2(self.ls2(self.mlp(self.norm2(x_BQD))))
        return out

    def token_map(self, x_BND: Tensor) -> Tensor:
        return self.pick.token_map(x_BND)


def rectangular_attention(attention: Any, queries_BQD: Tensor, x_BND: Tensor) -> Tensor:
    """timm's `Attention` with queries of some tokens, keys and values of others: (B, Q, D)."""
    heads, width = attention.num_heads, attention.head_dim
    inner = heads * width
    weight, bias = attention.qkv.weight, attention.qkv.bias
    q_BQE = functional.linear(queries_BQD, weight[:inner], None if bias is None else bias[:inner])
    kv_BNE = functional.linear(x_BND, weight[inner:], None if bias is None else bias[inner:])
    batch, tokens = q_BQE.shape[:2]
    q_BHQK = q_BQE.reshape(batch, tokens, heads, width).transpose(1, 2)
    k_BHNK, v_BHNK = kv_BNE.reshape(batch, x_BND.shape[1], 2, heads, width).permute(2, 0, 3, 1, 4).unbind(0)
    q_BHQK, k_BHNK = attention.q_norm(q_BHQK), attention.k_norm(k_BHNK)
    dropout = attention.attn_drop.p if attention.training else 0.0
    if attention.fused_attn:
        out_BHQK = functional.scaled_dot_product_attention(q_BHQK, k_BHNK, v_BHNK, dropout_p=dropout)
    else:
        weights_BHQN = (q_BHQK * attention.scale @ k_BHNK.transpose(-2, -1)).softmax(dim=-1)
        out_BHQK = attention.attn_drop(weights_BHQN) @ v_BHNK
    out_BQE = attention.norm(out_BHQK.transpose(1, 2).reshape(batch, tokens, inner))
    out: Tensor = attention.proj_drop(attention.proj(out_BQE))
    return out


def class_query_last(model: nn.Module, prefix_tokens: int) -> nn.Module:
    """The same logits from a last block that computes the prefix tokens alone, which is all that a head with pooling `token` reads."""
    *blocks, last = blocks_of(model)
    steps = steps_of(model)
    return install(model, Trunk([*blocks, RowBlock(last, First(prefix_tokens))], steps))
