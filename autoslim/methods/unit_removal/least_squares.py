"""Least squares after pruning widths: the linear layer that reads the removed units is refitted to the remaining ones.

Units are correlated, so that the remaining ones carry a part of what the removed ones did (ThiNet, Luo et al.,
arXiv 1707.06342, refits convolutions this way). For inputs x with mean m and covariance C, the weights W' and the bias b'
that approximate W x + b best in the mean square from the kept inputs alone are

    W' = W_kept + W_lost C_lost,kept C_kept,kept^-1,    b' = b + W m - W' m_kept.

Shapes: N tokens, F inputs, K inputs kept, L inputs lost, D outputs.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.core import activity
from autoslim.methods.layers.token_trunk import blocks_of

RIDGE = 1e-3
"""Added to the diagonal of C_kept,kept, as a share of its mean: nearly identical units would make it singular."""


_BATCH = 64
"""Images per pass; bounds the memory of the measurement, not its result."""


@dataclasses.dataclass
class Moments:
    """Mean (F,) and covariance (F, F) of a linear layer's inputs over all tokens seen, accumulated in float64."""

    count: int
    sum_F: Tensor
    products_FF: Tensor

    @classmethod
    def none(cls, layer: nn.Linear) -> Moments:
        # float64, because the covariance is a difference of large sums.
        like = layer.weight.new_zeros(layer.in_features, dtype=torch.float64)
        return cls(count=0, sum_F=like, products_FF=torch.outer(like, like))

    def add(self, x: Tensor) -> None:
        rows_NF = x.detach().flatten(0, -2).float()
        self.count += len(rows_NF)
        self.sum_F += rows_NF.sum(0)
        self.products_FF += rows_NF.T @ rows_NF

    @property
    def mean_F(self) -> Tensor:
        return self.sum_F / self.count

    @property
    def covariance_FF(self) -> Tensor:
        return self.products_FF / self.count - torch.outer(self.mean_F, self.mean_F)


@contextlib.contextmanager
def measuring(layers: Sequence[nn.Linear]) -> Iterator[list[Moments]]:
    """The moments of the inputs of `layers` in the passes made inside the context."""
    moments = [Moments.none(layer) for layer in layers]
    handles = [
        layer.register_forward_pre_hook(lambda _, inputs, own=own: own.add(inputs[0]))
        for layer, own in zip(layers, moments, strict=True)
    ]
    try:
        yield moments
    finally:
        for handle in handles:
            handle.remove()


def refit(layer: nn.Linear, kept_K: Tensor, moments: Moments) -> tuple[Tensor, Tensor | None]:
    """Weights (D, K) and bias (D,) for the inputs `kept_K` (sorted indices).

    A layer without a bias cannot make up for the mean, so that its second moments about zero take the covariance's place.
    """
    centred = layer.bias is not None
    products_FF = moments.covariance_FF if centred else moments.products_FF / moments.count
    lost_L = (
        torch.ones(layer.in_features, dtype=torch.bool, device=kept_K.device).index_fill(0, kept_K, False).nonzero().flatten()
    )
    weight_DF = layer.weight.detach().double()
    own_KK = products_FF[kept_K][:, kept_K]
    # At least a tiny ridge: inputs that are always 0 (a dead ReLU layer) have no moments at all.
    ridge = (RIDGE * own_KK.diagonal().mean()).clamp_min(1e-12)
    own_KK = own_KK + ridge * torch.eye(len(kept_K), dtype=own_KK.dtype, device=own_KK.device)
    # C_kept,kept^-1 C_kept,lost: what the kept inputs tell about the lost ones moves into their weights.
    explained_KL = torch.linalg.solve(own_KK, products_FF[kept_K][:, lost_L])
    weight_DK = weight_DF[:, kept_K] + weight_DF[:, lost_L] @ explained_KL.T
    if not centred:
        return weight_DK.to(layer.weight.dtype), None
    # W m - W' m_kept: the mean of the output stays what it was.
    shift_D = weight_DF @ moments.mean_F - weight_DK @ moments.mean_F[kept_K]
    return weight_DK.to(layer.weight.dtype), (layer.bias.detach().double() + shift_D).to(layer.bias.dtype)


def measure_readers(model: nn.Module, images_B3HW: Tensor) -> None:
    """Stores the moments of their inputs on these images with every block's projection and second MLP layer."""
    blocks: list[Any] = blocks_of(model)
    layers = [layer for block in blocks for layer in (block.attn.proj, block.mlp.fc2)]
    with torch.no_grad(), measuring(layers) as moments:
        for batch_B3HW in torch.split(images_B3HW, _BATCH):
            activity.mark()
            model.eval()(batch_B3HW)
    for layer, own in zip(layers, moments, strict=True):
        # Not a buffer: pruning replaces the layer, and the moments go with it.
        layer.moments = own


def refit_reader(narrow: nn.Linear, whole: Any, kept_K: Tensor, *, gate_K: Tensor | None = None) -> None:
    """Sets the weights of `narrow`, which replaces `whole` and reads its inputs `kept_K`; does nothing without `measure_readers`.

    `gate_K` are factors that the measured inputs had and that those of `narrow` lack; they move into the weights.
    """
    moments = getattr(whole, "moments", None)
    if moments is None:
        return
    weight_DK, bias_D = refit(whole, kept_K, moments)
    narrow.weight.data.copy_(weight_DK if gate_K is None else weight_DK * gate_K)
    if bias_D is not None:
        narrow.bias.data.copy_(bias_D)
