"""Which tokens stay: the one form in which every selecting method says it, so that all are cut, drawn and composed alike.

A `TokenSelector` may stand in front of a block (`token_trunk.Stage`), where what it leaves out is gone, or inside one
(`rectangular_block.RectangularBlock`), where what it leaves out is still a key and a value.

Shapes: B batch, N tokens that come in (prefix included), K tokens that stay, D width.
"""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

TokenIndices = int | Tensor
"""The first so many tokens; or indices (K,), the same for every image; or indices (B, K)."""


def gather_tokens(x_BND: Tensor, rows: TokenIndices) -> Tensor:
    """The tokens `rows`, in that order: (B, K, D)."""
    if isinstance(rows, int):
        return x_BND[:, :rows]
    if rows.ndim == 1:
        return x_BND.index_select(1, rows)
    # Whole tokens are copied. `gather` picks element by element, with an index for each: some ten times as long, under ONNX Runtime more.
    batch, tokens, width = x_BND.shape
    first_B1 = tokens * torch.arange(batch, device=rows.device).unsqueeze(1)
    return x_BND.reshape(-1, width).index_select(0, (rows + first_B1).flatten()).view(batch, rows.shape[1], width)


class TokenSelector(nn.Module, abc.ABC):
    """Subclasses say `rows`; the prefix tokens always come first in them."""

    @abc.abstractmethod
    def rows(self, x_BND: Tensor) -> TokenIndices:
        """Which of the tokens (B, N, D) stay."""

    def forward(self, x_BND: Tensor) -> Tensor:
        return gather_tokens(x_BND, self.rows(x_BND))

    def token_map(self, x_BND: Tensor) -> Tensor:
        """Which incoming token each token that stays is made of: (B, K, N), rows that sum to 1."""
        batch, tokens, _ = x_BND.shape
        identity_BNN = torch.eye(tokens, dtype=x_BND.dtype, device=x_BND.device).expand(batch, -1, -1)
        return gather_tokens(identity_BNN, self.rows(x_BND))


class FirstTokens(TokenSelector):
    """A slice: the tokens are in order already, or only the prefix is wanted."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens

    def rows(self, x_BND: Tensor) -> TokenIndices:
        return self.tokens


class FixedTokens(TokenSelector):
    """The same places in every image. They are a result, and so are saved with the weights."""

    def __init__(self, index_K: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index_K.long())

    @classmethod
    def empty(cls, tokens: int) -> FixedTokens:
        """Places still to be loaded."""
        return cls(torch.zeros(tokens, dtype=torch.long))

    def rows(self, x_BND: Tensor) -> TokenIndices:
        index: Tensor = self.index  # type: ignore[assignment]
        return index
