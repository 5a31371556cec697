"""Soft merging: the form in which the embeddings of `merge` are trained, because its grouping has a gradient.

The idea of a continuous relaxation is DTEM's (NeurIPS 2024, arXiv 2412.10569); the formulas are ours. DTEM chooses pairs by a soft top-k,
with a softmax for each patch that goes; here one sigmoid decides who goes, whatever their number.
No token leaves. In a block, of the patches that are alive, those go that the pruned form would let go, each in part: a first patch, whose
nearest second one is u_i near, goes with the share

    p_i = sigmoid((u_i - e) / t),    e halfway between the last u that goes in the pruned form and the first that stays,

second patches with 0, patches that are not compared with 1. What goes of a patch with the size m_i is shared out among the others:

    f_ij = p_i m_i w_ij,    w_i = softmax over j of (c_ij / t + log(1 - p_j)),

so that, with c_ij how near they are, m_j becomes m_j (1 - p_j) + sum_i f_ij and x_j the mean of what stays and what comes, weighted by its
size. Sizes are fractions now, and still count keys: a patch of the size 0 is one that nothing reads. Which patches are alive behind the
block is as in the pruned form. With t to 0 this is the pruned form.

Shapes: B batch, N tokens of the image, P patches that are alive, G of them that may go, D width, H heads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoslim.methods.layers.backbone import install
from autoslim.methods.layers.groups import Nearness
from autoslim.methods.layers.merging import MergingBlock, MergingTrunk
from autoslim.methods.layers.token_trunk import refuse_mask
from autoslim.methods.layers.tokens import key_mask
from autoslim.methods.merge.matching import MatchedMerge, worth_of
from autoslim.methods.merge.spread import SpreadTokens, nearest_second
from autoslim.models.placed_tokens import TokenIndices, gather_tokens

_LEAST_SIZE = 1e-6
"""The size of a patch that is gone: as a key it counts for nothing, and its logarithm has an end."""


class SoftTokens(NamedTuple):
    """All tokens of the image (B, N, D), their sizes (B, N), and which of them are `alive`: a number from the front, or indices (B, K)."""

    x_BND: Tensor
    size_BN: Tensor
    alive: TokenIndices
    places: TokenIndices | None = None

    def sizes(self) -> Tensor:
        return self.size_BN.clamp_min(_LEAST_SIZE)

    def mask_B11N(self) -> Tensor:
        return key_mask(self.sizes().log()).to(self.x_BND.dtype)


class SoftMerge(MatchedMerge):
    """The merging of `merge` with a gradient; its parts are those of `merge`."""

    def __init__(self, merge: MatchedMerge, softness: float) -> None:
        super().__init__(merge.selector, merge.num_prefix_tokens, merge.matching)
        self.softness = softness

    def groups(self, tokens: SoftTokens, received_BN: Tensor | None = None) -> SoftGroups:  # type: ignore[override]
        assert isinstance(self.selector, SpreadTokens), "fixed places are not learned"
        near = self.matching(tokens, received_BN).at(tokens.alive)
        stays = self.selector.nearest_rows(near)
        alive = stays if isinstance(tokens.alive, int) else tokens.alive.gather(1, stays)
        rows = tokens.x_BND.shape[1]
        return SoftGroups(self._shares(near), self.num_prefix_tokens, rows, alive, worth_of(received_BN))

    def received(self, weights_BHNN: Tensor, tokens: Any) -> Tensor:
        """As in the pruned form: the attention of the queries that are alive."""
        of_query_BNN = weights_BHNN.detach().mean(dim=1)
        return gather_tokens(of_query_BNN, tokens.alive).mean(dim=1)

    def _shares(self, near: Nearness) -> Shares:
        selector = self.selector
        assert isinstance(selector, SpreadTokens)
        prefix, softness = self.num_prefix_tokens, self.softness
        first, step = selector.compared(near.unit_BNE.shape[1])
        compared, patches = near.every(first, step), near.every(prefix, 1)
        going = compared.unit_BNE.shape[1] - (selector.tokens - prefix)
        log_stay_BS = _log_stay(_exact(nearest_second(compared)), going, softness)
        count = patches.unit_BNE.shape[1]
        # Whoever is not compared goes; second ones stay.
        log_stay_BP = log_stay_BS.new_full((len(log_stay_BS), count), float("-inf"))
        log_stay_BP[:, step - 1 :: 2 * step] = log_stay_BS
        log_stay_BP[:, 2 * step - 1 :: 2 * step] = 0
        number_P = torch.arange(count, device=log_stay_BP.device)
        # All but each last one of 2 * step: a mask as an index would be waited for on a GPU.
        goes_G = number_P[: count - count // (2 * step)]
        goes_G = goes_G + goes_G // (2 * step - 1)
        near_BGP = _exact(patches.at(goes_G).to(patches)) / softness + log_stay_BP[:, None, :]
        itself_GP = goes_G[:, None] == number_P
        joins_BGP = near_BGP.masked_fill(itself_GP, float("-inf")).softmax(dim=2)
        return Shares(log_stay_BP.exp(), joins_BGP, goes_G)


def _exact(near: Tensor) -> Tensor:
    """In single precision at least: a softmax of what is near in half precision would round shares of sizes."""
    return near.to(torch.promote_types(near.dtype, torch.float32))


def _log_stay(nearest_BS: Tensor, going: int, softness: float) -> Tensor:
    """log(1 - p) of the first patches, of which `going` go."""
    if going == 0:
        return torch.zeros_like(nearest_BS)
    if going == nearest_BS.shape[1]:
        return torch.full_like(nearest_BS, float("-inf"))
    sorted_BS = nearest_BS.sort(dim=1, descending=True).values
    end_B1 = sorted_BS[:, going - 1 : going + 1].mean(dim=1, keepdim=True)
    return functional.logsigmoid((end_B1 - nearest_BS) / softness)


@dataclasses.dataclass(frozen=True)
class Shares:
    """What stays of each patch that is alive (B, P), and among whom (B, G, P) what goes of the patches `goes_G` is shared out."""

    stay_BP: Tensor
    joins_BGP: Tensor
    goes_G: Tensor


@dataclasses.dataclass(frozen=True)
class SoftGroups:
    """`rows` are all tokens, which the block computes; `alive` are those that are alive behind it."""

    shares: Shares
    prefix: int
    rows: int
    alive: Tensor
    worth_BN: Tensor | None

    def merge(self, tokens: SoftTokens) -> SoftTokens:
        x_BPD, size_BP = self._patches(tokens, tokens.x_BND), self._patches(tokens, tokens.size_BN.unsqueeze(-1)).squeeze(-1)
        goes_G = self.shares.goes_G
        weight_BP = size_BP if self.worth_BN is None else size_BP * self._patches(tokens, self.worth_BN.unsqueeze(-1)).squeeze(-1)
        own_BP, moved_BGP = self._moved(size_BP)
        left_BP, came_BGP = (own_BP, moved_BGP) if self.worth_BN is None else self._moved(weight_BP)
        inflow_BP = came_BGP.sum(dim=1)
        # What comes replaces as much of what is there: a patch to which nothing comes stays exactly as it is.
        content_BPD = came_BGP.transpose(1, 2).to(x_BPD.dtype) @ x_BPD[:, goes_G] - inflow_BP.unsqueeze(-1) * x_BPD
        change_BPD = content_BPD / (left_BP + inflow_BP).clamp_min(_LEAST_SIZE).unsqueeze(-1)
        size_BP = own_BP + moved_BGP.sum(dim=1)
        return SoftTokens(
            self._put_back(tokens, tokens.x_BND, (x_BPD + change_BPD).to(x_BPD.dtype)),
            self._put_back(tokens, tokens.size_BN.unsqueeze(-1), size_BP.unsqueeze(-1)).squeeze(-1),
            self.alive,
        )

    def _moved(self, weight_BP: Tensor) -> tuple[Tensor, Tensor]:
        """What of this weight stays (B, P), and what goes, from whom to whom (B, G, P)."""
        stay_BP, goes_G = self.shares.stay_BP, self.shares.goes_G
        gone_BG = weight_BP[:, goes_G] * (1 - stay_BP[:, goes_G])
        return weight_BP * stay_BP, gone_BG.unsqueeze(-1) * self.shares.joins_BGP

    def _patches(self, tokens: SoftTokens, values_BNX: Tensor) -> Tensor:
        """Those of the patches that are alive in front of the block."""
        return gather_tokens(values_BNX, tokens.alive)[:, self.prefix :]

    def _put_back(self, tokens: SoftTokens, values_BNX: Tensor, new_BPX: Tensor) -> Tensor:
        """All tokens' values, of which those of `_patches` are new."""
        if isinstance(tokens.alive, int):
            return torch.cat((values_BNX[:, : self.prefix], new_BPX), dim=1)
        return values_BNX.scatter(1, tokens.alive[:, self.prefix :, None].expand_as(new_BPX), new_BPX)


class SoftMergingTrunk(MergingTrunk):
    """A trunk in which no token leaves; see above."""

    @staticmethod
    def start(x_BND: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, **unused: None) -> SoftTokens:
        refuse_mask(attn_mask, is_causal)
        # In single precision at least, as sizes are in the pruned form.
        size_BN = torch.ones_like(x_BND[..., 0], dtype=torch.promote_types(x_BND.dtype, torch.float32))
        return SoftTokens(x_BND, size_BN, x_BND.shape[1])


def soften(model: nn.Module, softness: float) -> nn.Module:
    """Makes the training form of a model whose blocks have a `MatchedMerge`, in place."""
    return _changed(model, SoftMergingTrunk, lambda merge: SoftMerge(merge, softness))


def harden(model: nn.Module) -> nn.Module:
    """The inverse of `soften`: the pruned form, with the embeddings as they are."""
    return _changed(model, MergingTrunk, lambda merge: MatchedMerge(merge.selector, merge.num_prefix_tokens, merge.matching))


def _changed(model: nn.Module, form: type[MergingTrunk], change: Callable[[MatchedMerge], MatchedMerge]) -> nn.Module:
    trunk: Any = model.blocks
    steps: dict[int, nn.Module] = {}
    for index, stage in enumerate(trunk.stages):
        if isinstance(stage.block, MergingBlock):
            assert isinstance(stage.block.merge, MatchedMerge), "merging without a matching"
            stage.block.merge = change(stage.block.merge)
        elif isinstance(stage.pre_block, MatchedMerge):
            steps[index] = change(stage.pre_block)
    return install(model, form([stage.block for stage in trunk.stages], steps, trunk.end))
