"""Which patches stay when many look alike: ours, as an alternative to Patch Slimming's order by score.

Neighbouring patches of high impact hold much the same content, and a static mask by score alone keeps all of them, in the middle of
the image. Here a removed patch costs its impact times the distance of its content to the nearest patch that stays,

    cost(S) = sum over images b and patches i of sqrt(s_b,i) min over j in S of |z_b,i - z_b,j|^2,

with s its impact score as a share of its image's (a squared norm, hence the root) and z its layer-normalised token behind the block.
Patches are added one by one, each time the one that lowers the cost most: the greedy algorithm for facility location (Nemhauser,
Wolsey and Fisher, 1978), whose saving is at least 1 - 1/e of the best one's.

Shapes: B images, P patches, D width.
"""

from __future__ import annotations

import heapq

import torch
from torch import Tensor
from torch.nn import functional

from autoslim.core import activity

_LARGEST = 2**24
"""Distances in memory at once, 64 MiB in float32; it bounds the number of images where there are many patches."""

_IMAGES = 128
"""Images that the cost is summed over: one order serves all images, and time grows with images times patches squared."""


class CoverageOrder:
    """The order in which patches are added: those of the mask `inherited_P` in reading order, then by their saving.

    It is found as far as it is asked for: each addition costs time, and a block adds only those that the one behind it does not have.
    """

    def __init__(self, score_BP: Tensor, token_BPD: Tensor, inherited_P: Tensor) -> None:
        images = max(1, min(len(score_BP), _IMAGES, _LARGEST // score_BP.shape[1] ** 2))
        self._weight_BP = (score_BP[:images] / score_BP[:images].sum(dim=1, keepdim=True).clamp_min(1e-30)).sqrt()
        self._distance_BPP = _distances(token_BPD[:images])
        self._order: list[int] = inherited_P.nonzero()[:, 0].tolist()
        # For every patch the squared distance to the nearest one added so far. Nothing is added yet: as far as the most distant pair.
        self._nearest_BP = self._distance_BPP.amax(dim=(1, 2))[:, None].expand_as(self._weight_BP)
        for joined in self._order:
            self._nearest_BP = torch.minimum(self._nearest_BP, self._distance_BPP[:, joined])
        self._left = sorted(set(range(len(inherited_P))) - set(self._order))
        self._bounds: list[tuple[float, int]] | None = None
        self.evaluations = 0

    @torch.no_grad()
    def first(self, count: int) -> list[int]:
        """The first `count` patches, all that are inherited among them."""
        while len(self._order) < count:
            activity.mark()
            joined = self._best()
            self._order.append(joined)
            self._nearest_BP = torch.minimum(self._nearest_BP, self._distance_BPP[:, joined])
        return self._order[: max(count, 0)]

    def _best(self) -> int:
        """The patch that saves most; of equal ones the first in reading order. It is no longer a candidate afterwards.

        A patch can only save less when others have been added, so that an earlier saving is a bound: patches below the best one so far
        need not be evaluated again (lazy greedy; Minoux, 1978).
        """
        if self._bounds is None:
            self._bounds = [(-self._saving(patch), patch) for patch in self._left]
            heapq.heapify(self._bounds)
            return heapq.heappop(self._bounds)[1]
        while True:
            _, patch = heapq.heappop(self._bounds)
            renewed = (-self._saving(patch), patch)
            if not self._bounds or renewed <= self._bounds[0]:
                return patch
            heapq.heappush(self._bounds, renewed)

    def _saving(self, patch: int) -> float:
        """What adding the patch would save: each patch is then no further from a kept one than from it."""
        self.evaluations += 1
        closer_BP = (self._nearest_BP - self._distance_BPP[:, patch]).clamp_min(0)
        return float((self._weight_BP * closer_BP).sum())


def _distances(token_BPD: Tensor) -> Tensor:
    """|z_i - z_j|^2 of layer-normalised tokens: (B, P, P)."""
    z_BPD = functional.layer_norm(token_BPD, token_BPD.shape[-1:])
    product_BPP = z_BPD @ z_BPD.transpose(1, 2)
    length_BP = product_BPP.diagonal(dim1=1, dim2=2)
    return (length_BP[:, :, None] + length_BP[:, None] - 2 * product_BPP).clamp_min(0)
