"""Token operations on plain tensors, independent of any model.

Shapes: B batch, N tokens (prefix included), P patches, D width, K kept patches.
"""

from __future__ import annotations

import torch
from torch import Tensor


def behind_prefix(index_BK: Tensor, *, num_prefix_tokens: int) -> Tensor:
    """Patch indices (counted without the prefix) as token indices, the prefix tokens in front: (B, prefix + K)."""
    prefix = torch.arange(num_prefix_tokens, device=index_BK.device).expand(index_BK.shape[0], -1)
    return torch.cat((prefix, index_BK + num_prefix_tokens), dim=1)


def order_by(score_BP: Tensor) -> Tensor:
    """Patch indices (B, P), highest score first; ties in reading order, so that the result does not depend on the device."""
    if torch.compiler.is_exporting():
        # ONNX has no stable sort. This becomes TopK, which is defined to put the lower index first.
        return score_BP.argsort(dim=1, descending=True)
    return score_BP.argsort(dim=1, descending=True, stable=True)


def standardise(score_BP: Tensor, *, mean: float | Tensor, std: float | Tensor) -> Tensor:
    """The scores of each image, shifted and scaled to the mean `mean` and the sample standard deviation `std`."""
    centred_BP = score_BP - score_BP.mean(dim=1, keepdim=True)
    # 1e-8 as in the code of life regression: equal scores have no deviation to divide by.
    return centred_BP / (score_BP.std(dim=1, keepdim=True) + 1e-8) * std + mean


def key_mask(log_weight_BN: Tensor) -> Tensor:
    """The additive attention mask (B, 1, 1, N) under which key j counts w_j times in every softmax, given log w_j.

    exp(z + log w) = w exp(z); a weight of 0 (minus infinity here) removes the key as if its token were not there.
    """
    return log_weight_BN[:, None, None, :]
