"""Text and colours of the PNG pictures: Pillow's own font, which is the same on every machine, and the colours of front.css."""

from __future__ import annotations

import functools

from PIL import Image, ImageDraw, ImageFont

PAPER, INK, SOFT, RULE = (255, 255, 255), (27, 31, 36), (87, 96, 106), (216, 222, 228)
BLUE, PALE_BLUE, ORANGE, GREEN = (0, 114, 178), (150, 195, 224), (213, 94, 0), (0, 128, 91)

Colour = tuple[int, int, int]

_HEAT: tuple[Colour, ...] = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""Viridis: brightness rises with the value, so that a colour-blind reader can distinguish the values, too."""


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def heat(share: float) -> Colour:
    """`share` from 0 to 1, dark to bright."""
    place = min(max(share, 0.0), 1.0) * (len(_HEAT) - 1)
    low = min(int(place), len(_HEAT) - 2)
    first, second = _HEAT[low], _HEAT[low + 1]
    red, green, blue = (round(a + (b - a) * (place - low)) for a, b in zip(first, second, strict=True))
    return red, green, blue


def text_width(text: str, size: int) -> int:
    return round(font(size).getlength(text))


def shorten(text: str, width: int, size: int) -> str:
    """`text`, cut with an ellipsis where it is wider than `width` pixels."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "...", size) > width:
        text = text[:-1]
    return text + "..."


def write(
    image: Image.Image, place: tuple[int, int], text: str, *, size: int = 14, colour: Colour = INK, anchor: str = "la"
) -> None:
    """`anchor` as Pillow's: `la` puts the upper left corner at `place`, `ma` the middle of the upper edge."""
    ImageDraw.Draw(image).text(place, text, font=font(size), fill=colour, anchor=anchor)


def stack(images: list[Image.Image], *, gap: int) -> Image.Image:
    """One below the other, left edges in line."""
    whole = Image.new("RGB", (max(i.width for i in images), sum(i.height for i in images) + gap * (len(images) - 1)), PAPER)
    top = 0
    for image in images:
        whole.paste(image, (0, top))
        top += image.height + gap
    return whole


def framed(image: Image.Image, *, margin: int) -> Image.Image:
    whole = Image.new("RGB", (image.width + 2 * margin, image.height + 2 * margin), PAPER)
    whole.paste(image, (margin, margin))
    return whole
