"""Groups of tokens that become one: tokens with sizes, how near they are to each other, and who joins whom.

Shapes: B batch, N tokens that enter (prefix included), K tokens that stay, S patches that stay, G patches that go, D width, E length of
the vectors that are compared.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from autoslim.methods.layers.tokens import key_mask, order_by
from autoslim.models.placed_tokens import TokenIndices, gather_tokens, places_at

_LEAST = 1e-12
"""Keeps the squared length of a token of equal elements above 0."""

LEAST_LIKENESS = 1e-6
"""Opposite tokens have the likeness 0, whose logarithm would be without bound."""


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


class Nearness(NamedTuple):
    """How near tokens are to each other: the cosine of their vectors (B, N, E), which have length 1.

    Where each token has a `pull_BN`, the logarithm of MCTF's attraction (CVPR 2024, arXiv 2403.10030) takes the cosine's place:
    log((cosine + 1) / 2) + pull_i + pull_j.
    """

    unit_BNE: Tensor
    pull_BN: Tensor | None = None

    def at(self, rows: TokenIndices) -> Nearness:
        pull_BK = None if self.pull_BN is None else gather_tokens(self.pull_BN.unsqueeze(-1), rows).squeeze(-1)
        return Nearness(gather_tokens(self.unit_BNE, rows), pull_BK)

    def every(self, first: int, step: int) -> Nearness:
        """Those of token `first` and of each `step`-th one behind it."""
        return Nearness(self.unit_BNE[:, first::step], None if self.pull_BN is None else self.pull_BN[:, first::step])

    def to(self, others: Nearness) -> Tensor:
        """Of each of these to each of the others, (B, these, others)."""
        cosine_BGS = self.unit_BNE @ others.unit_BNE.transpose(1, 2)
        if self.pull_BN is None or others.pull_BN is None:
            return cosine_BGS
        likeness_BGS = ((cosine_BGS + 1) / 2).clamp_min(LEAST_LIKENESS)
        return likeness_BGS.log() + self.pull_BN[:, :, None] + others.pull_BN[:, None, :]


class Groups:
    """Which patches go, and which of those that stay each of them joins.

    `rows` are the tokens that stay, prefix first. No gradient passes through the choice. Tokens (B, N, D) are near by their own content
    unless `nearness` says how near they are. A group's mean is weighted by the sizes, times `worth_BN` where that is given.
    """

    def __init__(
        self,
        x_BND: Tensor,
        rows: TokenIndices,
        num_prefix_tokens: int,
        *,
        nearness: Nearness | None = None,
        worth_BN: Tensor | None = None,
    ) -> None:
        self.rows, self.prefix, self.worth_BN = rows, num_prefix_tokens, worth_BN
        self.goes = indices_left_out(rows, x_BND)
        near = Nearness(unit_length(x_BND.detach())) if nearness is None else nearness
        # A selector that only sorts leaves out nothing.
        self.joins_BSG = self._nearest(near).to(x_BND.dtype) if self.goes.shape[-1] else None

    def _nearest(self, near: Nearness) -> Tensor:
        """(B, S, G), true where patch g, which goes, joins patch s."""
        near_BGS = near.at(self.goes).to(near.at(self.rows).every(self.prefix, 1))
        number_S = torch.arange(near_BGS.shape[2], device=near_BGS.device)
        # A comparison instead of a scatter with reduction, which not every runtime has.
        return near_BGS.argmax(dim=2)[:, None, :] == number_S[None, :, None]

    def merge(self, tokens: SizedTokens) -> SizedTokens:
        """The tokens `rows`, each the mean of its group, weighted: (B, K, D); and the groups' sizes (B, K)."""
        x_BND, size_BN1 = tokens.x_BND, tokens.sizes().unsqueeze(-1)
        places = places_at(tokens.places, self.rows)
        stay_BKD, stay_BK1 = gather_tokens(x_BND, self.rows), gather_tokens(size_BN1, self.rows)
        if self.joins_BSG is None:
            return SizedTokens(stay_BKD, stay_BK1.squeeze(-1), places)
        go_BGD, go_BG1 = gather_tokens(x_BND, self.goes), gather_tokens(size_BN1, self.goes)
        weight_BS1, weight_BG1 = stay_BK1[:, self.prefix :], go_BG1
        if self.worth_BN is not None:
            worth_BN1 = self.worth_BN.unsqueeze(-1)
            weight_BS1 = weight_BS1 * gather_tokens(worth_BN1, self.rows)[:, self.prefix :]
            weight_BG1 = weight_BG1 * gather_tokens(worth_BN1, self.goes)
        # Sizes are summed without a matrix product, which mixed precision would round.
        size_BS1 = stay_BK1[:, self.prefix :] + (self.joins_BSG * go_BG1.transpose(1, 2)).sum(dim=2, keepdim=True)
        whole_BS1 = size_BS1
        if self.worth_BN is not None:
            whole_BS1 = weight_BS1 + (self.joins_BSG * weight_BG1.transpose(1, 2)).sum(dim=2, keepdim=True)
        # What joins is added to what stays, so that a patch that nothing joins is not rounded either.
        content_BSD = self.joins_BSG @ (go_BGD * weight_BG1.to(x_BND.dtype))
        own_BSD = stay_BKD[:, self.prefix :] * (weight_BS1 / whole_BS1).to(x_BND.dtype)
        mean_BSD = own_BSD + content_BSD / whole_BS1.to(x_BND.dtype)
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
