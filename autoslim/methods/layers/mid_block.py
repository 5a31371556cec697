"""A block with a step on the tokens between its attention and its MLP, where EViT and ToMe select or merge.

All tokens that come in are queries, keys and values of the attention; the MLP computes those that the step leaves. In a plan this is
a block with `tokens_mlp` below `tokens_q`. The step sees the tokens behind the attention's residual sum, not the attention weights:
a method that ranks by those (EViT) or by the keys (ToMe) needs a block of its own.

Shapes: B batch, N tokens that come in (prefix included), K tokens that the step leaves, D width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from autoslim.methods.layers.token_trunk import refuse_mask
from autoslim.models.placed_tokens import PlacedTokens, Tokens, as_given, placed
from autoslim.models.positional import attention_of


class MidBlock(nn.Module):
    """Takes over a timm block's parts under their own names; `mid_block` maps (B, N, D) to (B, K, D), prefix tokens first.

    A `TokenSelector` is such a step, on tokens with places, too. Any other needs a `token_map`, so that pictures can follow the tokens
    through it.
    """

    def __init__(self, block: Any, mid_block: nn.Module) -> None:
        super().__init__()
        self.mid_block = mid_block
        self.norm1, self.attn, self.ls1, self.drop_path1 = block.norm1, block.attn, block.ls1, block.drop_path1
        self.norm2, self.mlp, self.ls2, self.drop_path2 = block.norm2, block.mlp, block.ls2, block.drop_path2

    def forward(self, tokens: Tokens, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tokens:
        refuse_mask(attn_mask, is_causal)
        x_BKD, places = placed(self.mid_block(self._attended(tokens)))
        out_BKD: Tensor = x_BKD + self.drop_path2(self.ls2(self.mlp(self.norm2(x_BKD))))
        return as_given(PlacedTokens(out_BKD, places), tokens)

    def token_map(self, tokens: Tensor | PlacedTokens) -> Tensor:
        """Which entering tokens each token that stays is made of, which the step says behind the attention: (B, K, N)."""
        step: Any = self.mid_block
        map_BKN: Tensor = step.token_map(self._attended(tokens))
        return map_BKN

    def _attended(self, tokens: Any) -> Any:
        x_BND, places = placed(tokens)
        x_BND = x_BND + self.drop_path1(self.ls1(attention_of(self, self.norm1(x_BND), places)))
        return as_given(PlacedTokens(x_BND, places), tokens)
