"""Which tokens are near, as papers after ToMe say it: by an embedding that is learned for it, and by more than their likeness.

*A decoupled embedding* (`embedded`), the idea of DTEM (NeurIPS 2024, arXiv 2412.10569): tokens are compared by z = E x, with a matrix E
of each merging block that has no part in what the block computes, and that training fits to the task (`soft_merging`). x are centred
tokens of length 1, and E starts as their first principal components, so that cosines are at first nearly those of the tokens.

*Several criteria* (`informed`), those of MCTF (CVPR 2024, arXiv 2403.10030): token i is attracted by token j as

    W_ij = ((cos(x_i, x_j) + 1) / 2)^(1/t_s) (u_i u_j)^(1/t_i) (v_i v_j)^(1/t_z),   u_i = (1/a_i) / max(1/a),   v_i = (1/s_i) / max(1/s)

with a_i the attention that token i receives, the mean over heads and queries, and s_i its size: alike, little read and small tokens merge
first. Both maxima cancel, because attractions are compared within an image alone. A group's mean weighs its members by a_i s_i.

Shapes: B batch, N tokens that enter (prefix included), H heads, D width, E length of an embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoslim.methods.layers.groups import Groups, Nearness, SizedTokens, unit_length
from autoslim.methods.layers.merging import MergeInto, MergingBlock, map_of
from autoslim.methods.layers.rectangular_block import add_branches
from autoslim.methods.layers.token_selector import TokenSelector
from autoslim.methods.merge.spread import SpreadTokens
from autoslim.models.placed_tokens import TokenIndices, gather_tokens
from autoslim.models.positional import weighted_values, weights_and_values

_OF_ATTENTION, _OF_SIZE = 20.0, 40.0
"""MCTF's temperatures t_i and t_z for DeiT; its t_s is 1."""

_LEAST_RECEIVED = 1e-8
"""Attention whose logarithm is taken: that of a padded token would be without bound."""

_LEAST_LENGTH = 1e-12
"""Keeps the squared length of an embedding of nothing above 0."""


def embedding_width(dim: int) -> int:
    """64, or a third of the width where that is less: comparing embeddings costs less than comparing tokens."""
    return min(64, max(8, dim // 3))


class Matching(nn.Module):
    """How near tokens are, by their embeddings where they are `embedded`, and by their attention and sizes, too, where `informed`."""

    def __init__(self, dim: int, *, embedded: bool, informed: bool) -> None:
        super().__init__()
        self.informed = informed
        # Zeros until `start_from`, or loading, sets them: no generator is used.
        self.weight = nn.Parameter(torch.zeros(embedding_width(dim), dim)) if embedded else None

    def forward(self, tokens: Any, received_BN: Tensor | None) -> Nearness:
        """Of `SizedTokens`, or what else has contents and sizes. `received_BN` is the attention that each token receives; None in front of
        a block that has none."""
        # What is compared has no part in what is computed: the gradient of an embedding ends here.
        unit_BNE = unit_length(tokens.x_BND.detach())
        if self.weight is not None:
            embedded_BNE = functional.linear(unit_BNE, self.weight)
            # The square of a length is below half precision.
            embedded_BNE = embedded_BNE.to(torch.promote_types(embedded_BNE.dtype, torch.float32))
            length_BN1 = (embedded_BNE.square().sum(dim=-1, keepdim=True) + _LEAST_LENGTH).rsqrt()
            unit_BNE = (embedded_BNE * length_BN1).to(unit_BNE.dtype)
        return Nearness(unit_BNE, self._pull(tokens, received_BN) if self.informed else None)

    def _pull(self, tokens: Any, received_BN: Tensor | None) -> Tensor:
        pull_BN: Tensor = -tokens.sizes().log() / _OF_SIZE
        if received_BN is not None:
            pull_BN = pull_BN - received_BN.to(pull_BN.dtype).clamp_min(_LEAST_RECEIVED).log() / _OF_ATTENTION
        return pull_BN

    @torch.no_grad()
    def start_from(self, x_BND: Tensor, num_prefix_tokens: int) -> None:
        """Sets the embedding to the first principal components of these tokens' patches."""
        assert self.weight is not None, "without an embedding"
        unit_MD = unit_length(x_BND[:, num_prefix_tokens:]).flatten(0, 1).double()
        # Eigenvalues rise. Products of embeddings are then as close to those of the tokens as so few numbers allow.
        components_DD = torch.linalg.eigh(unit_MD.T @ unit_MD / len(unit_MD)).eigenvectors
        self.weight.copy_(components_DD[:, -len(self.weight) :].flip(1).T)


class MatchedMerge(MergeInto):
    """A `MergeInto` whose tokens are as near as `matching` says."""

    def __init__(self, selector: TokenSelector, num_prefix_tokens: int, matching: Matching) -> None:
        super().__init__(selector, num_prefix_tokens)
        self.matching = matching

    def groups(self, tokens: SizedTokens, received_BN: Tensor | None = None) -> Groups:
        near = self.matching(tokens, received_BN)
        selector = self.selector
        rows = selector.nearest_rows(near) if isinstance(selector, SpreadTokens) else selector.rows(tokens.x_BND)
        return Groups(tokens.x_BND, rows, self.num_prefix_tokens, nearness=near, worth_BN=worth_of(received_BN))

    def received(self, weights_BHNN: Tensor, tokens: Any) -> Tensor:
        """The attention that each token receives (B, N): the mean of its column of the softmax over heads and queries."""
        return weights_BHNN.detach().mean(dim=(1, 2))


def worth_of(received_BN: Tensor | None) -> Tensor | None:
    """What a group's mean weighs tokens by besides their sizes; around 1, for half precision."""
    return None if received_BN is None else received_BN / received_BN.mean(dim=1, keepdim=True)


class InformedMergingBlock(MergingBlock):
    """A `MergingBlock` whose merging reads the block's own attention on the tokens that enter: MCTF's one step ahead.

    The softmax is computed for all queries, and the rows of those that stay are used on.
    """

    merge: MatchedMerge

    def forward(self, tokens: SizedTokens) -> SizedTokens:
        weights_BHNN, v_BHNK = self._attention(tokens)
        groups = self.merge.groups(tokens, self.merge.received(weights_BHNN, tokens))
        merged = groups.merge(tokens)
        attended_BKD = weighted_values(self.attn, rows_of_weights(weights_BHNN, groups.rows), v_BHNK)
        return merged._replace(x_BND=add_branches(self, merged.x_BND, attended_BKD))

    def token_map(self, tokens: SizedTokens) -> Tensor:
        weights_BHNN, _ = self._attention(tokens)
        return map_of(self.merge.groups(tokens, self.merge.received(weights_BHNN, tokens)), tokens)

    def _attention(self, tokens: SizedTokens) -> tuple[Tensor, Tensor]:
        return weights_and_values(self.attn, self.norm1(tokens.x_BND), places=tokens.places, mask=tokens.mask_B11N())


def rows_of_weights(weights_BHNN: Tensor, rows: TokenIndices) -> Tensor:
    """The rows of these queries: (B, H, Q, N)."""
    heads, tokens = weights_BHNN.shape[1], weights_BHNN.shape[3]
    # Queries in front, so that all heads' rows of a query are copied as one.
    rows_BQX = gather_tokens(weights_BHNN.transpose(1, 2).flatten(2), rows)
    return rows_BQX.reshape(*rows_BQX.shape[:2], heads, tokens).transpose(1, 2)
