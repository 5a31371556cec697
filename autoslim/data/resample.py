"""Crops of a batch on any device: each row of a crop is a weighted sum of a few stored rows, and each column then of a few columns.

B images of a batch, H and W pixels as stored, h and w pixels of the crops, K stored rows (or columns) of which one is
made, N of either, with X, Y or M values each.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_SUPPORT = 2.0
"""Pixels to each side that bicubic interpolation takes, where it does not make the image smaller."""

_SHARPNESS = -0.5
"""The parameter a of Keys's cubic convolution (1981), as in Pillow."""


class Taps(NamedTuple):
    """The stored rows (or columns) that those of a crop are made of, and their weights: (B, h, K) each."""

    stored: Tensor
    weight: Tensor

    def mirrored(self, chosen_B: Tensor) -> Taps:
        """In the opposite order for the images that are chosen."""
        chosen_B11 = chosen_B[:, None, None]
        return Taps(*(torch.where(chosen_B11, one.flip(1), one) for one in self))

    def some(self, images: slice) -> Taps:
        return Taps(self.stored[images], self.weight[images])


def shifted_taps(ends_B2: Tensor, want: int, have: int) -> Taps:
    """`want` of `have` whole pixels from the first of the ends on; pixels outside the image are reflected at its border."""
    index_Bh = (ends_B2[:, :1].long() + torch.arange(want, device=ends_B2.device)).abs()
    last = have - 1
    index_BhK = (last - (last - index_Bh).abs())[:, :, None]
    return Taps(index_BhK, torch.ones_like(index_BhK, dtype=torch.float32))


def bicubic_taps(ends_B2: Tensor, want: int, have: int) -> Taps:
    """`want` pixels of the part of `have` pixels between two fractional ends, by antialiased bicubic interpolation.

    That is Pillow's `resize` with a `box`, which rounds and clips after each direction.
    """
    low_B1, high_B1 = ends_B2[:, :1], ends_B2[:, 1:]
    scale_B1 = (high_B1 - low_B1) / want
    stretch_B1 = scale_B1.clamp(min=1.0)
    middle_Bh = low_B1 + (torch.arange(want, device=low_B1.device) + 0.5) * scale_B1
    first_Bh = (middle_Bh - _SUPPORT * stretch_B1 + 0.5).floor()
    # As many as the whole image would need: their number must not depend on what is on the device, which would have to be waited for.
    taps = 2 * math.ceil(_SUPPORT * max(have / want, 1.0)) + 1
    index_BhK = first_Bh[:, :, None] + torch.arange(taps, device=low_B1.device)
    weight_BhK = _cubic((index_BhK - middle_Bh[:, :, None] + 0.5) / stretch_B1[:, :, None])
    weight_BhK = weight_BhK * ((index_BhK >= 0) & (index_BhK < have))
    return Taps(index_BhK.clamp(0, have - 1).long(), weight_BhK / weight_BhK.sum(dim=2, keepdim=True))


def _cubic(x: Tensor) -> Tensor:
    x, a = x.abs(), _SHARPNESS
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def resample(images_BHW3: Tensor, rows: Taps, columns: Taps, crops_B3hw: Tensor) -> Tensor:
    """Writes the crops of bytes (B, H, W, 3): float32 (B, 3, h, w) from 0 to 255, not rounded."""
    width = images_BHW3.shape[2]
    lines_BhX = _weighted(images_BHW3.flatten(2).float(), rows)
    lines_BWY = lines_BhX.transpose(1, 2).unflatten(1, (width, 3)).flatten(2)  # type: ignore[no-untyped-call]
    found_B3hw = _weighted(lines_BWY, columns).transpose(1, 2).unflatten(1, (3, -1))  # type: ignore[no-untyped-call]
    # Bicubic interpolation overshoots at edges.
    return torch.clamp(found_B3hw, 0, 255, out=crops_B3hw)


def _weighted(x_BNM: Tensor, taps: Taps) -> Tensor:
    """Weighted sums along the second dimension: (B, h, M)."""
    batch, count, values = x_BNM.shape
    start_B11 = count * torch.arange(batch, device=x_BNM.device)[:, None, None]
    # What text models do with words: rows of a table, weighted and summed, in one pass over the memory.
    sums = functional.embedding_bag(
        (start_B11 + taps.stored).flatten(0, 1),
        x_BNM.reshape(batch * count, values),
        per_sample_weights=taps.weight.flatten(0, 1),
        mode="sum",
    )
    return sums.view(batch, -1, values)


def planes(images_Bhw3: Tensor, x_B3hw: Tensor | None = None) -> Tensor:
    """Writes float32 (B, 3, h, w), in the range of the bytes; into new memory where none is given."""
    batch, height, width, _ = images_Bhw3.shape
    if x_B3hw is None:
        x_B3hw = torch.empty((batch, 3, height, width), device=images_Bhw3.device)
    # In one pass over the memory: twice as fast on a CPU as a change of type and one of order.
    return x_B3hw.copy_(images_Bhw3.permute(0, 3, 1, 2))


def normalise(x_B3hw: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(x / 255 - mean) / std, in place, as one product and one sum."""
    # By numbers of Python: a tensor of them would have to be copied to the device, which would be waited for.
    for channel, (centre, spread) in enumerate(zip(mean, std, strict=True)):
        x_B3hw[:, channel].mul_(1 / (255 * spread)).add_(-centre / spread)
    return x_B3hw
