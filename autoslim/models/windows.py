"""Blocks whose attention is computed in windows of the image (Swin, arXiv 2103.14030), with the parts of timm's `Block`.

Shapes: B batch, N tokens of the image, D width, M windows, W tokens of a window.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoslim.errors import UnsupportedModelError
from autoslim.models.placed_tokens import TokenIndices
from autoslim.models.positional import PositionalBlock, Positions, RelativeBias


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


class WindowBias(RelativeBias):
    """A bias for each distance between two tokens of a window (Swin, arXiv 2103.14030, section 3.2), all of which are always there."""

    asks_places = False


class ContinuousBias(Positions):
    """SwinV2's attention (arXiv 2111.09883, sections 3.2 and 3.3): queries and keys have length one, their products a scale for each head
    (H, 1, 1), and `mlp` makes a bias of the offset between two tokens.

    `offsets_1RS2` are the offsets along both axes that there are, on a logarithmic scale; `index_WW` is the number of each pair's.
    """

    rotates = True

    def __init__(self, logit_scale_H11: Tensor, mlp: nn.Sequential, offsets_1RS2: Tensor, index_WW: Tensor) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(logit_scale_H11)
        self.mlp = mlp
        self.offsets: Tensor
        self.index: Tensor
        self.register_buffer("offsets", offsets_1RS2, persistent=False)
        self.register_buffer("index", index_WW, persistent=False)

    @property
    def _linear(self) -> tuple[nn.Linear, nn.Linear]:
        first, _, last = self.mlp
        assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
        return first, last

    @property
    def prices(self) -> dict[str, int]:
        """The fields of `BlockShape` that describe the MLP and the scale."""
        first, last = self._linear
        offsets = self.offsets.numel() // 2
        return {
            "head_params": last.in_features + 1,
            "head_matmuls": offsets * last.in_features,
            "shared_params": first.weight.numel() + first.bias.numel(),
            "shared_matmuls": offsets * first.weight.numel(),
        }

    def rotate(self, x_BHNK: Tensor, places: TokenIndices | None) -> Tensor:
        # At most 100, as in the paper. The attention divides products by the root of the head width.
        scale_H11 = self.logit_scale.clamp(max=math.log(100)).exp() * math.sqrt(x_BHNK.shape[-1])
        # Queries and keys have a half of the scale each.
        return functional.normalize(x_BHNK, dim=-1) * scale_H11.sqrt()

    def bias(self, of_queries: TokenIndices | None, of_keys: TokenIndices | None, tokens: int) -> Tensor:
        table_RH: Tensor = self.mlp(self.offsets).flatten(0, 2)
        bias_WWH = table_RH[self.index.flatten()].view(*self.index.shape, -1)
        return 16 * bias_WWH.permute(2, 0, 1).sigmoid().unsqueeze(0)

    def of_heads(self, heads: Sequence[int]) -> ContinuousBias:
        first, last = self._linear
        fewer = nn.Linear(last.in_features, len(heads), bias=False, device=last.weight.device, dtype=last.weight.dtype)
        fewer.weight.data.copy_(last.weight.data[list(heads)])
        mlp = nn.Sequential(copy.deepcopy(first), nn.ReLU(), fewer)
        return ContinuousBias(self.logit_scale.detach()[list(heads)].clone(), mlp, self.offsets, self.index)


class WindowBlock(PositionalBlock):
    """A block on all of the image's tokens (B, N, D); `merging` joins neighbours in front of it, on the grid `entering`."""

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        windows: Windows,
        *,
        merging: nn.Module | None,
        entering: tuple[int, int],
        norms_behind: bool = False,
    ) -> None:
        front = {"windows": windows, **({} if merging is None else {"merging": merging})}
        super().__init__({**front, **parts}, norms_behind=norms_behind)
        self.entering = entering

    def forward(  # type: ignore[override]
        self, x_BND: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, **unused: None
    ) -> Tensor:
        if attn_mask is not None or is_causal:
            raise UnsupportedModelError("a model whose attention is computed in windows takes no attention mask")
        part: Any = self
        if hasattr(self, "merging"):
            x_BND = part.merging(x_BND.reshape(-1, *self.entering, x_BND.shape[-1])).flatten(1, 2)
        return self.add_branches(x_BND, self._attend)

    def _attend(self, x_BND: Tensor) -> Tensor:
        part: Any = self
        attended = part.attn(part.windows.cut(x_BND), attn_mask=part.windows.mask_of(x_BND.shape[0]))
        joined: Tensor = part.windows.join(attended)
        return joined
