"""What both kinds of token slimming share: each made token is a mixture of all patches, X^ = A^T X.

Where tokens carry their sizes (`layers.merging.SizedTokens`), a made token's is the number of patches that go into it: each patch is
shared out between the made tokens, which is another normalisation than that of the mixture, whose weights sum to 1 for each made token.

Shapes: B batch, N tokens (prefix included), P patches that enter, K tokens that are made of them, D width.
"""

from __future__ import annotations

import abc
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoslim.methods.layers.groups import SizedTokens

_LEAST_SIZE = 1e-6
"""Of a made token that no patch goes into: its logarithm is finite, and as a key it counts for nothing."""

Given = TypeVar("Given", Tensor, SizedTokens)


class PatchMixture(nn.Module, abc.ABC):
    """(B, N, D) -> (B, prefix + K, D), with sizes where the tokens have any. Prefix tokens pass unchanged and are part of no mixture."""

    def __init__(self, num_prefix_tokens: int) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens

    @abc.abstractmethod
    def mixture(self, x_BPD: Tensor) -> Tensor:
        """A^T, each made token's weights over the patches: (B, K, P), rows that sum to 1."""

    @abc.abstractmethod
    def mixture_and_shares(self, x_BPD: Tensor) -> tuple[Tensor, Tensor]:
        """The mixture, and how much of each patch goes into each made token: (B, K, P), columns that sum to 1 at most."""

    def forward(self, tokens: Given) -> Given:
        if isinstance(tokens, Tensor):
            return self._mixed(tokens, self.mixture(tokens[:, self.num_prefix_tokens :]))
        prefix, x_BND = self.num_prefix_tokens, tokens.x_BND
        mixture_BKP, share_BKP = self.mixture_and_shares(x_BND[:, prefix:])
        size_BN = tokens.sizes()
        # A product and a sum, which mixed precision does not round, as a matrix product would be.
        made_BK = (share_BKP.to(size_BN.dtype) * size_BN[:, None, prefix:]).sum(dim=2) + _LEAST_SIZE
        return SizedTokens(self._mixed(x_BND, mixture_BKP), torch.cat((size_BN[:, :prefix], made_BK), dim=1))

    def _mixed(self, x_BND: Tensor, mixture_BKP: Tensor) -> Tensor:
        prefix, x_BPD = x_BND[:, : self.num_prefix_tokens], x_BND[:, self.num_prefix_tokens :]
        slimmed_BKD = torch.matmul(mixture_BKP, x_BPD)
        return torch.cat((prefix, slimmed_BKD), dim=1) if self.num_prefix_tokens else slimmed_BKD

    def token_map(self, tokens: Tensor | SizedTokens) -> Tensor:
        """Which entering tokens each token that leaves is made of: (B, prefix + K, N), the identity for the prefix."""
        x_BND = tokens if isinstance(tokens, Tensor) else tokens.x_BND
        prefix = self.num_prefix_tokens
        mixture_BKP = self.mixture(x_BND[:, prefix:])
        kept = torch.eye(prefix, x_BND.shape[1], dtype=mixture_BKP.dtype, device=x_BND.device)
        return torch.cat((kept.expand(x_BND.shape[0], -1, -1), functional.pad(mixture_BKP, (prefix, 0))), dim=1)
