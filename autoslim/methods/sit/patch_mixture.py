"""What both kinds of token slimming share: each made token is a mixture of all patches, X^ = A^T X.

Shapes: B batch, N tokens (prefix included), P patches that enter, K tokens that are made of them, D width.
"""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn
from torch.nn import functional


class PatchMixture(nn.Module, abc.ABC):
    """(B, N, D) -> (B, prefix + K, D). Prefix tokens pass unchanged and are part of no mixture."""

    def __init__(self, num_prefix_tokens: int) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens

    @abc.abstractmethod
    def mixture(self, x_BPD: Tensor) -> Tensor:
        """A^T, each made token's weights over the patches: (B, K, P), rows that sum to 1."""

    def forward(self, x_BND: Tensor) -> Tensor:
        prefix, x_BPD = x_BND[:, : self.num_prefix_tokens], x_BND[:, self.num_prefix_tokens :]
        slimmed_BKD = torch.matmul(self.mixture(x_BPD), x_BPD)
        return torch.cat((prefix, slimmed_BKD), dim=1) if self.num_prefix_tokens else slimmed_BKD

    def token_map(self, x_BND: Tensor) -> Tensor:
        """Which entering tokens each token that leaves is made of: (B, prefix + K, N), the identity for the prefix."""
        prefix = self.num_prefix_tokens
        mixture_BKP = self.mixture(x_BND[:, prefix:])
        kept = torch.eye(prefix, x_BND.shape[1], dtype=mixture_BKP.dtype, device=x_BND.device)
        return torch.cat((kept.expand(x_BND.shape[0], -1, -1), functional.pad(mixture_BKP, (prefix, 0))), dim=1)
