"""The patches of real images on their way through a slimmed model: a row an image, a column wherever patches go, their lives last.

A dropped patch is a pale ghost, which tells it from dark and from bright ones that are there; where patches are mixed, each is as
bright as its weight. N images, P patches, L blocks.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from autoslim.report.canvas import PAPER, RULE, SOFT, heat, shorten, write
from autoslim.report.token_survival import Survival

_TOTAL, _WIDEST, _NARROWEST = 1240, 200, 72
_GAP, _HEAD, _CAPTION, _LEGEND = 8, 40, 22, 34
_CLEAR = 10
"""The least width of a patch in pixels where two images are side by side."""
_VEIL, _GHOST, _DIM = np.array((190.0, 195.0, 201.0)), 0.2, 0.12
"""The grey that a dropped patch becomes and how much of its own brightness is left, enough to see what was dropped; how bright a
patch without weight is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenView:
    """`pixels` (N, h, w, 3) as the model takes them, `captions` the text below each image; `head_reads_patches` as the pool says."""

    pixels: NDArray[np.uint8]
    captions: tuple[str, ...]
    grid: tuple[int, int]
    survival: Survival
    head_reads_patches: bool

    @property
    def depth(self) -> int:
        return len(self.survival.weights) - 1

    def columns(self) -> list[tuple[int, int]]:
        """First and last block of every stretch in which no patch goes or comes; (L, L) is the head, where that differs."""
        weights = self.survival.weights
        ends = self.depth + (1 if self.head_reads_patches else 0)
        firsts = [0] + [block for block in range(1, ends) if not weights[block].allclose(weights[block - 1], atol=1e-3)]
        return [(first, after - 1) for first, after in itertools.pairwise([*firsts, ends])]

    def brightness(self, block: int) -> NDArray[np.float64]:
        """(N, P), 0 to 1; mixed patches over an even share of the tokens, since a mixture's weights are small throughout."""
        weights = self.survival.weights[block].clamp(min=0).double()
        if self.survival.mixed:
            weights = weights / weights.mean(dim=1, keepdim=True).clamp(min=1e-12)
        values: NDArray[np.float64] = weights.clamp(max=1).numpy()
        return values


def draw_tokens(view: TokenView) -> Image.Image:
    """Where the columns are few, two images stand side by side."""
    count = len(view.pixels)
    # All patches reach the first block, so that its column is the image itself.
    columns = len(view.columns()) + 1
    abreast, tile = 2, _tile_size(view, columns, 2)
    if count == 1 or max(tile) < _CLEAR * max(view.grid):
        abreast, tile = 1, _tile_size(view, columns, 1)
    half = -(-count // abreast)
    strips = [_strip(view, range(start, min(start + half, count)), tile) for start in range(0, count, half)]
    gap = _TOTAL // 2 - strips[0].width if abreast == 2 else 0
    image = Image.new("RGB", (strips[0].width * len(strips) + gap * (len(strips) - 1), strips[0].height + _LEGEND), PAPER)
    for place, strip in enumerate(strips):
        image.paste(strip, (place * (strip.width + gap), 0))
    _legend(image, view.survival.lives)
    return image


def _strip(view: TokenView, rows: range, tile: tuple[int, int]) -> Image.Image:
    """The images `rows` one below the other, with a head."""
    (width, height), columns = tile, view.columns()
    firsts = [first for first, _ in columns[1:]]
    heads = [("image", _stretch(columns[0], view.depth))]
    heads += [(_stretch(column, view.depth), _count(view, column[0])) for column in columns[1:]]
    heads.append(("life", "in blocks"))
    across = width + _GAP
    image = Image.new("RGB", (len(heads) * across - _GAP, _HEAD + len(rows) * (height + _CAPTION)), PAPER)
    for place, (title, note) in enumerate(heads):
        write(image, (place * across, 0), shorten(title, width, 14), size=14)
        write(image, (place * across, 19), shorten(note, width + 6, 12), size=12, colour=SOFT)
    for row, number in enumerate(rows):
        top = _HEAD + row * (height + _CAPTION)
        for place, picture in enumerate(_tiles(view, number, firsts, tile)):
            image.paste(picture, (place * across, top))
        below = top + height + 3
        room = width if any(_varies(view, first) for first in firsts) else width + across * len(firsts)
        write(image, (0, below), shorten(view.captions[number], room, 12), size=12, colour=SOFT)
        for place, first in enumerate(firsts, 1):
            if _varies(view, first):
                text = f"{int(view.survival.counts[first, number])} patches"
                write(image, (place * across + width, below), text, size=12, colour=SOFT, anchor="ra")
    return image


def _tiles(view: TokenView, number: int, firsts: list[int], tile: tuple[int, int]) -> list[Image.Image]:
    photo = Image.fromarray(view.pixels[number]).resize(tile, Image.Resampling.BICUBIC)
    veil = not view.survival.mixed
    return [
        photo,
        *(dimmed(photo, view.brightness(first)[number], view.grid, veil=veil) for first in firsts),
        _lives(photo, view.survival.lives, number, view.grid),
    ]


def dimmed(photo: Image.Image, share_P: NDArray[np.float64], grid: tuple[int, int], *, veil: bool) -> Image.Image:
    """`photo` with every patch between its own colours (1) and its ghost (0), which is dark without a veil."""
    pixels = np.asarray(photo).astype(np.float64)
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    ghost = (1 - _GHOST) * _VEIL + _GHOST * grey[..., None] if veil else _DIM * pixels
    share = patch_map(share_P, grid, pixels.shape[:2])[..., None]
    return Image.fromarray((share * pixels + (1 - share) * ghost).round().astype(np.uint8))


def patch_map(values_P: NDArray[np.float64], grid: tuple[int, int], size: tuple[int, int]) -> NDArray[np.float64]:
    """Values by patch, in reading order, as values by pixel (height, width)."""
    down, across = (np.arange(extent) * cells // extent for extent, cells in zip(size, grid, strict=True))
    spread: NDArray[np.float64] = values_P.reshape(grid)[down[:, None], across[None, :]]
    return spread


def _lives(photo: Image.Image, lives_NP: Tensor, number: int, grid: tuple[int, int]) -> Image.Image:
    low, high = _span(lives_NP)
    colours = np.array([heat((float(life) - low) / (high - low)) for life in lives_NP[number]], np.float64)
    tint = np.stack([patch_map(colours[:, channel], grid, (photo.height, photo.width)) for channel in range(3)], axis=2)
    grey = np.asarray(photo.convert("L")).astype(np.float64)[..., None]
    return Image.fromarray((0.72 * tint + 0.28 * grey).round().astype(np.uint8))


def _legend(image: Image.Image, lives_NP: Tensor) -> None:
    low, high = _span(lives_NP)
    draw, width, right, top = ImageDraw.Draw(image), 160, image.width, image.height - _LEGEND + 2
    left = right - width
    for x in range(width):
        draw.line([(left + x, top), (left + x, top + 12)], fill=heat(x / (width - 1)))
    draw.rectangle([left, top, right - 1, top + 12], outline=RULE)
    write(image, (left, top + 15), f"{low:.3g}", size=12, colour=SOFT)
    write(image, (right, top + 15), f"{high:.3g} blocks", size=12, colour=SOFT, anchor="ra")


def _span(lives_NP: Tensor) -> tuple[float, float]:
    """The shortest and the longest life; patches go somewhere, or nothing would be drawn, and so they differ."""
    low, high = float(lives_NP.min()), float(lives_NP.max())
    return low, max(high, low + 1e-6)


def _tile_size(view: TokenView, columns: int, abreast: int) -> tuple[int, int]:
    """Width and height of a tile, in the images' own proportions; as large as fits side by side."""
    height, width = view.pixels.shape[1:3]
    room = _TOTAL if abreast == 1 else _TOTAL // 2 - 2 * _GAP
    longest = min(max((room - _GAP * (columns - 1)) // columns, _NARROWEST), _WIDEST)
    scale = longest / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _stretch(column: tuple[int, int], depth: int) -> str:
    first, last = column
    if first == depth:
        return "head"
    last = min(last, depth - 1)
    return f"block {first}" if first == last else f"blocks {first} to {last}"


def _varies(view: TokenView, block: int) -> bool:
    return not view.survival.mixed and len(set(view.survival.counts[block].tolist())) > 1


def _count(view: TokenView, block: int) -> str:
    patches = view.grid[0] * view.grid[1]
    counts = view.survival.counts[block]
    if view.survival.mixed:
        return f"{patches} patches in {round(float(counts.double().mean()))} tokens"
    mean = float(counts.double().mean())
    return f"mean {mean:.1f} of {patches}" if _varies(view, block) else f"{mean:.0f} of {patches} patches"
