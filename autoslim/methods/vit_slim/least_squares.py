"""Least squares after a cut of widths: the linear layer behind units that went is refitted to those that stay.

Ours, not ViT-Slim's: what the lost units told a layer is partly told by the others, too (Luo et al., ThiNet, arXiv 1707.06342, refit
convolutions so). For inputs x with mean m and covariance C, the weights W' and the bias b' that come nearest to W x + b in the mean
square from the kept inputs alone are W' = W_kept + W_lost C_lost,kept C_kept,kept^-1 and b' = b + W m - W' m_kept.

Shapes: F inputs, K inputs kept, D outputs.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.methods.layers.token_trunk import blocks_of

RIDGE = 1e-3
"""On the diagonal, as a share of its mean: units that say the same are told apart by nothing."""


_BATCH = 64


@dataclasses.dataclass
class Moments:
    """Mean (F,) and covariance (F, F) of a linear layer's inputs over every token seen, summed up in float64."""

    count: int
    sum_F: Tensor
    products_FF: Tensor

    @classmethod
    def none(cls, layer: nn.Linear) -> Moments:
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
    """The moments of what goes into `layers` while it is open."""
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
    """Weights (D, K) and bias (D,) behind the inputs `kept_K` (indices, sorted). Without a bias the moments are those about zero."""
    centred = layer.bias is not None
    products_FF = moments.covariance_FF if centred else moments.products_FF / moments.count
    lost_L = (
        torch.ones(layer.in_features, dtype=torch.bool, device=kept_K.device).index_fill(0, kept_K, False).nonzero().flatten()
    )
    weight_DF = layer.weight.detach().double()
    own_KK = products_FF[kept_K][:, kept_K]
    # Never 0, so that a layer none of whose inputs ever lives can be solved, too.
    ridge = (RIDGE * own_KK.diagonal().mean()).clamp_min(1e-12)
    own_KK = own_KK + ridge * torch.eye(len(kept_K), dtype=own_KK.dtype, device=own_KK.device)
    told_KL = torch.linalg.solve(own_KK, products_FF[kept_K][:, lost_L])
    weight_DK = weight_DF[:, kept_K] + weight_DF[:, lost_L] @ told_KL.T
    if not centred:
        return weight_DK.to(layer.weight.dtype), None
    shift_D = weight_DF @ moments.mean_F - weight_DK @ moments.mean_F[kept_K]
    return weight_DK.to(layer.weight.dtype), (layer.bias.detach().double() + shift_D).to(layer.bias.dtype)


def measure_readers(model: nn.Module, images_B3HW: Tensor) -> None:
    """Leaves with every block's projection and second MLP layer the moments of what it reads on these images."""
    blocks: list[Any] = blocks_of(model)
    layers = [layer for block in blocks for layer in (block.attn.proj, block.mlp.fc2)]
    with torch.no_grad(), measuring(layers) as moments:
        for batch_B3HW in torch.split(images_B3HW, _BATCH):
            model.eval()(batch_B3HW)
    for layer, own in zip(layers, moments, strict=True):
        # Not a buffer: it is gone with the layer, which is replaced.
        layer.moments = own


def refit_reader(narrow: nn.Linear, whole: Any, kept_K: Tensor, *, gate_K: Tensor | None = None) -> None:
    """Where `measure_readers` has been, fills `narrow`, which stands for `whole` behind the inputs `kept_K`.

    `gate_K` multiplies the inputs that were measured, but not those of `narrow`.
    """
    moments = getattr(whole, "moments", None)
    if moments is None:
        return
    weight_DK, bias_D = refit(whole, kept_K, moments)
    narrow.weight.data.copy_(weight_DK if gate_K is None else weight_DK * gate_K)
    if bias_D is not None:
        narrow.bias.data.copy_(bias_D)
