"""Which tokens stay: the interface of every selecting method, so that all are pruned, drawn in pictures and composed alike.

A `TokenSelector` may be in front of a block (`token_trunk.Stage`), where removed tokens are gone; between attention and MLP
(`mid_block.MidBlock`); or inside a block (`rectangular_block.RectangularBlock`), where removed tokens still are keys and values.

Shapes: B batch, N tokens that enter (prefix included), K tokens that stay, D width.
"""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

from autoslim.models.placed_tokens import PlacedTokens, TokenIndices, Tokens, gather_tokens, placed


class TokenSelector(nn.Module, abc.ABC):
    """Selects tokens. Subclasses implement `rows`, in which the prefix tokens always come first.

    `eased` are the tokens that stay in training instead of the `planned` ones, where a selector goes by a number; see `gradual`.
    """

    eased: int | None = None

    @property
    def planned(self) -> int | None:
        """The tokens that stay, prefix included; None where more could not be told apart."""
        return None

    def staying(self, planned: int) -> int:
        return planned if self.eased is None or not self.training else self.eased

    @abc.abstractmethod
    def rows(self, x_BND: Tensor) -> TokenIndices:
        """The indices of the tokens (B, N, D) that stay."""

    def forward(self, tokens: Tokens) -> Tokens:
        """The tokens that stay, with their places where they have any."""
        if isinstance(tokens, Tensor):
            return gather_tokens(tokens, self.rows(tokens))
        return tokens.at(self.rows(tokens.x_BND))

    def token_map(self, tokens: Tensor | PlacedTokens) -> Tensor:
        """Which entering tokens each token that stays is made of: (B, K, N), rows that sum to 1."""
        x_BND = placed(tokens).x_BND
        batch, entering, _ = x_BND.shape
        # What a selection does to the identity is its map, whichever form its indices have.
        identity_BNN = torch.eye(entering, dtype=x_BND.dtype, device=x_BND.device).expand(batch, -1, -1)
        return gather_tokens(identity_BNN, self.rows(x_BND))


class FirstTokens(TokenSelector):
    """A slice, where tokens are sorted already or only the prefix is needed."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens

    @property
    def planned(self) -> int:
        return self.tokens

    def rows(self, x_BND: Tensor) -> TokenIndices:
        return self.staying(self.tokens)


class FixedTokens(TokenSelector):
    """The same places in every image: a buffer, saved with the weights.

    `eased_index` are the places in training while `eased` asks for more of them.
    """

    eased_index: Tensor | None = None

    def __init__(self, index_K: Tensor) -> None:
        super().__init__()
        self.index: Tensor
        self.register_buffer("index", index_K.long())

    @classmethod
    def empty(cls, tokens: int) -> FixedTokens:
        """A selector whose places are loaded later."""
        return cls(torch.zeros(tokens, dtype=torch.long))

    @property
    def planned(self) -> int:
        return self.index.numel()

    def rows(self, x_BND: Tensor) -> TokenIndices:
        return self.index if self.eased_index is None or not self.training else self.eased_index
