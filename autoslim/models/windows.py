"""Blocks whose attention is computed in windows of the image (Swin, arXiv 2103.14030), with the parts of timm's `Block`.

Shapes: B batch, N tokens of the image, D width, M windows, W tokens of a window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.errors import UnsupportedModelError
from autoslim.models.positional import PositionalBlock


class Windows(nn.Module):
    """Cuts the image's tokens into windows and puts them together again.

    `grid` are the rows and columns of tokens, multiples of `size`; they are rolled by `shift` before they are cut. `mask_MWW` is added to
    the logits: a window that the roll has made of two ends of the image keeps them apart.
    """

    def __init__(
        self, grid: tuple[int, int], size: tuple[int, int], *, shift: tuple[int, int] = (0, 0), mask_MWW: Tensor | None = None
    ) -> None:
        super().__init__()
        self.grid, self.size, self.shift = grid, size, shift
        self.mask: Tensor | None
        self.register_buffer("mask", mask_MWW, persistent=False)

    def cut(self, x_BND: Tensor) -> Tensor:
        """The windows (B M, W, D) of each image, in reading order."""
        (rows, columns), (height, width) = self.grid, self.size
        x = x_BND.reshape(-1, rows, columns, x_BND.shape[-1])
        if any(self.shift):
            x = torch.roll(x, shifts=(-self.shift[0], -self.shift[1]), dims=(1, 2))
        x = x.view(-1, rows // height, height, columns // width, width, x.shape[-1])
        return x.transpose(2, 3).reshape(-1, height * width, x.shape[-1])

    def join(self, x: Tensor) -> Tensor:
        """The tokens (B, N, D) of windows (B M, W, D), where they were before `cut`."""
        (rows, columns), (height, width) = self.grid, self.size
        x = x.view(-1, rows // height, columns // width, height, width, x.shape[-1])
        x = x.transpose(2, 3).reshape(-1, rows, columns, x.shape[-1])
        if any(self.shift):
            x = torch.roll(x, shifts=self.shift, dims=(1, 2))
        joined: Tensor = x.flatten(1, 2)
        return joined

    def mask_of(self, batch: int) -> Tensor | None:
        """The mask (B M, 1, W, W) of so many images."""
        return None if self.mask is None else self.mask.repeat(batch, 1, 1).unsqueeze(1)


class WindowBlock(PositionalBlock):
    """A block on all of the image's tokens (B, N, D); `merging` joins neighbours in front of it, on the grid `entering`."""

    def __init__(
        self, parts: Mapping[str, nn.Module], windows: Windows, *, merging: nn.Module | None, entering: tuple[int, int]
    ) -> None:
        super().__init__({"windows": windows, **({} if merging is None else {"merging": merging}), **parts})
        self.entering = entering

    def forward(  # type: ignore[override]
        self, x_BND: Tensor, rope: None = None, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        if attn_mask is not None or is_causal:
            raise UnsupportedModelError("a model whose attention is computed in windows takes no attention mask")
        part: Any = self
        if hasattr(self, "merging"):
            x_BND = part.merging(x_BND.reshape(-1, *self.entering, x_BND.shape[-1])).flatten(1, 2)
        cut = part.windows.cut(part.norm1(x_BND))
        attended = part.attn(cut, attn_mask=part.windows.mask_of(x_BND.shape[0]))
        x_BND = x_BND + part.drop_path1(part.ls1(part.windows.join(attended)))
        return x_BND + part.drop_path2(part.ls2(part.mlp(part.norm2(x_BND))))  # type: ignore[no-any-return]
