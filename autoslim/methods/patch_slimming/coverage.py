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

import torch
from torch import Tensor
from torch.nn import functional

_LARGEST = 2**24
"""Distances in memory at once, 64 MiB in float32; it bounds the number of images where there are many patches."""

_IMAGES = 128
"""Images that the cost is summed over: one order serves all images, and time grows with images times patches cubed."""


@torch.no_grad()
def coverage_order(score_BP: Tensor, token_BPD: Tensor, inherited_P: Tensor) -> Tensor:
    """All patches (P,) in the order in which they are added: those of the mask `inherited_P` in reading order, then by their saving."""
    images = max(1, min(len(score_BP), _IMAGES, _LARGEST // score_BP.shape[1] ** 2))
    weight_BP = (score_BP[:images] / score_BP[:images].sum(dim=1, keepdim=True).clamp_min(1e-30)).sqrt()
    distance_BPP = _distances(token_BPD[:images])
    order = inherited_P.nonzero()[:, 0].tolist()
    left_P = ~inherited_P
    # For every patch the squared distance to the nearest one added so far. Nothing is added yet: as far as the most distant pair.
    nearest_BP = distance_BPP.amax(dim=(1, 2))[:, None].expand_as(weight_BP)
    for joined in order:
        nearest_BP = torch.minimum(nearest_BP, distance_BPP[:, joined])
    for _ in range(int(left_P.sum())):
        # What adding j would save: each patch i is then no further from a kept one than from j.
        saved_P = (weight_BP[:, :, None] * (nearest_BP[:, :, None] - distance_BPP).clamp_min(0)).sum(dim=(0, 1))
        joined = int(saved_P.masked_fill(~left_P, -1.0).argmax())
        order.append(joined)
        left_P[joined] = False
        nearest_BP = torch.minimum(nearest_BP, distance_BPP[:, joined])
    return torch.tensor(order, device=inherited_P.device)


def _distances(token_BPD: Tensor) -> Tensor:
    """|z_i - z_j|^2 of layer-normalised tokens: (B, P, P)."""
    z_BPD = functional.layer_norm(token_BPD, token_BPD.shape[-1:])
    product_BPP = z_BPD @ z_BPD.transpose(1, 2)
    length_BP = product_BPP.diagonal(dim1=1, dim2=2)
    return (length_BP[:, :, None] + length_BP[:, None] - 2 * product_BPP).clamp_min(0)
