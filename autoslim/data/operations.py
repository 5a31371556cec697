"""What augmentations do to crops on any device, in batches: each operation takes images (n, 3, h, w) of values from 0 to 255, which it may
change, and a value for each of them, and returns the results. They are Pillow's, without its rounding.

B images of a batch, n of those that an operation is for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114
"""Of grey, as ITU-R 601-2 and Pillow have it."""


class Step(NamedTuple):
    """An operation on the images at `rows` of a batch (n,), in rising order, or on all where they are None. `values` have one for each of
    them (n, ...), and `shared` are for all together.
    """

    operation: str
    rows: Tensor | None
    values: tuple[Tensor, ...] = ()
    shared: tuple[Tensor, ...] = ()

    def moved(self, move: Callable[[Tensor], Tensor]) -> Step:
        rows = None if self.rows is None else move(self.rows)
        return Step(self.operation, rows, tuple(map(move, self.values)), tuple(map(move, self.shared)))

    def some(self, found: slice, first: int) -> Step:
        """For the images of a part of the batch, which begins with its row `first`: those of `values` that are `found` there."""
        rows = None if self.rows is None else self.rows[found] - first
        return Step(self.operation, rows, tuple(value[found] for value in self.values), self.shared)


def steps_of_parts(steps: Sequence[Step], bounds: Sequence[int]) -> Iterator[tuple[Step, ...]]:
    """The steps of each part of a batch on a CPU, from one of its `bounds` to the next."""
    places = [bounds if step.rows is None else np.searchsorted(step.rows.numpy(), bounds).tolist() for step in steps]
    for number, first in enumerate(itertools.islice(bounds, len(bounds) - 1)):
        yield tuple(
            step.some(slice(place[number], place[number + 1]), first)
            for step, place in zip(steps, places, strict=True)
            if place[number] < place[number + 1]
        )


def apply_steps(x_B3hw: Tensor, steps: Sequence[Step]) -> Tensor:
    """Changes the images."""
    for name, rows, values, shared in steps:
        operation = OPERATIONS[name]
        if rows is not None and len(rows) < len(x_B3hw):
            x_B3hw.index_copy_(0, rows, operation(x_B3hw.index_select(0, rows), *values, *shared))
            continue
        found = operation(x_B3hw, *values, *shared)
        if found is not x_B3hw:
            x_B3hw.copy_(found)
    return x_B3hw


def _each(value_n: Tensor) -> Tensor:
    return value_n[:, None, None, None]


def _grey(x_n3hw: Tensor) -> Tensor:
    # Products and sums apart: an `alpha` rounds by the place in memory, and an image by that of its batch.
    return (_RED * x_n3hw[:, 0]).add_(_GREEN * x_n3hw[:, 1]).add_(_BLUE * x_n3hw[:, 2])[:, None]


def _blend(without: Tensor, x_n3hw: Tensor, factor_n: Tensor) -> Tensor:
    # In place: new memory for a whole batch takes longer than the rest.
    factor_n111 = _each(factor_n)
    return x_n3hw.mul_(factor_n111).add_(without * (1 - factor_n111)).clamp_(0, 255)


def brightness(x_n3hw: Tensor, factor_n: Tensor) -> Tensor:
    return x_n3hw.mul_(_each(factor_n)).clamp_(0, 255)


def contrast(x_n3hw: Tensor, factor_n: Tensor) -> Tensor:
    # Rounded as Pillow does, and so that the order in which a device sums does not show.
    mean_n111 = _grey(x_n3hw).mean(dim=(1, 2, 3), keepdim=True).round()
    return _blend(mean_n111, x_n3hw, factor_n)


def saturation(x_n3hw: Tensor, factor_n: Tensor) -> Tensor:
    return _blend(_grey(x_n3hw), x_n3hw, factor_n)


def sharpness(x_n3hw: Tensor, factor_n: Tensor) -> Tensor:
    """Against the image smoothed by a kernel of ones with 5 in its middle, which leaves the border as it is."""
    smooth_n3hw = x_n3hw.clone()
    inner = smooth_n3hw[:, :, 1:-1, 1:-1]
    inner.mul_(4).add_(functional.avg_pool2d(x_n3hw, 3, stride=1), alpha=9).div_(13)
    return _blend(smooth_n3hw, x_n3hw, factor_n)


def invert(x_n3hw: Tensor) -> Tensor:
    return 255 - x_n3hw


def posterize(x_n3hw: Tensor, step_n: Tensor) -> Tensor:
    """Values that are not multiples of `step` become the next lower one."""
    return (x_n3hw / _each(step_n)).floor_().mul_(_each(step_n))


def solarize(x_n3hw: Tensor, threshold_n: Tensor) -> Tensor:
    return torch.where(x_n3hw < _each(threshold_n), x_n3hw, 255 - x_n3hw)


def solarize_add(x_n3hw: Tensor, added_n: Tensor) -> Tensor:
    return torch.where(x_n3hw < 128, (x_n3hw + _each(added_n)).clamp_(max=255), x_n3hw)


def autocontrast(x_n3hw: Tensor) -> Tensor:
    low_n311, high_n311 = x_n3hw.amin(dim=(2, 3), keepdim=True), x_n3hw.amax(dim=(2, 3), keepdim=True)
    return torch.where(high_n311 > low_n311, (x_n3hw - low_n311) * (255 / (high_n311 - low_n311)), x_n3hw)


def equalize(x_n3hw: Tensor) -> Tensor:
    """Makes the histogram of each channel even; c channels of all images, 256 values."""
    value_cP = x_n3hw.round().long().flatten(2).flatten(0, 1)
    count_c256 = torch.zeros(len(value_cP), 256, dtype=torch.long, device=x_n3hw.device)
    count_c256.scatter_add_(1, value_cP, torch.ones_like(value_cP))
    below_c256 = count_c256.cumsum(dim=1) - count_c256
    # All pixels but those of the highest value, over 255 steps.
    step_c1 = below_c256.gather(1, value_cP.amax(dim=1, keepdim=True)) // 255
    even_c256 = ((below_c256 + step_c1 // 2) // step_c1.clamp(min=1)).clamp_(max=255)
    new_cP = torch.where(step_c1 > 0, even_c256.gather(1, value_cP), value_cP)
    return new_cP.view_as(x_n3hw).float()


def affine(x_n3hw: Tensor, matrix_n23: Tensor, fill_n3: Tensor) -> Tensor:
    """Each pixel from where its matrix leads to, in coordinates from -1 to 1 along each side; `fill` comes from outside the image."""
    height, width = x_n3hw.shape[2:]
    row_h1, column_w = _middles(height, x_n3hw.device)[:, None], _middles(width, x_n3hw.device)
    # As `affine_grid`, whose product of matrices has threads of its own and rounds by the number of images.
    to_column, to_row = (
        matrix_n23[:, side, 0, None, None] * column_w
        + matrix_n23[:, side, 1, None, None] * row_h1
        + matrix_n23[:, side, 2, None, None]
        for side in (0, 1)
    )
    grid_nhw2 = torch.stack([to_column, to_row], dim=-1)
    fill_n311 = fill_n3[:, :, None, None]
    # Outside there are zeros.
    found_n3hw = functional.grid_sample(x_n3hw - fill_n311, grid_nhw2, mode="bicubic", align_corners=False)
    return found_n3hw.add_(fill_n311).clamp_(0, 255)


def _middles(side: int, device: torch.device) -> Tensor:
    """Of the pixels along a side that goes from -1 to 1."""
    return (2 * torch.arange(side, device=device) + (1 - side)) / side


def erase(x_n3hw: Tensor, box_n4: Tensor, noise_3hw: Tensor) -> Tensor:
    """Shows `noise` in the rectangle from the row and column of `box`, with its height and width."""
    top, left, height, width = (side[:, None, None] for side in box_n4.T)
    row_h1 = torch.arange(x_n3hw.shape[2], device=x_n3hw.device)[:, None]
    column_w = torch.arange(x_n3hw.shape[3], device=x_n3hw.device)
    inside_nhw = (row_h1 >= top) & (row_h1 < top + height) & (column_w >= left) & (column_w < left + width)
    return torch.where(inside_nhw[:, None], noise_3hw, x_n3hw)


OPERATIONS: dict[str, Callable[..., Tensor]] = {
    operation.__name__: operation
    for operation in (
        brightness,
        contrast,
        saturation,
        sharpness,
        invert,
        posterize,
        solarize,
        solarize_add,
        autocontrast,
        equalize,
        affine,
        erase,
    )
}
