"""What each block of a slimmed model computes, as bars against the dense model's: patches and prefix tokens, heads, hidden units."""

from __future__ import annotations

import dataclasses

from PIL import Image, ImageDraw

from autoslim.core.plan import Plan
from autoslim.core.shape import ViTShape
from autoslim.report.canvas import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PALE_BLUE,
    PAPER,
    RULE,
    SOFT,
    Colour,
    shorten,
    text_width,
    write,
)

_WIDTH, _LEFT, _BARS, _HEAD, _FOOT, _WIDEST = 1240, 60, 84, 44, 26, 96


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bar:
    """`value` of `dense`, with a `pale` part that is not computed throughout, and what is written above it."""

    value: int
    dense: int
    text: str
    pale: int = 0


def draw_widths(shape: ViTShape, plan: Plan, *, capped: bool = False) -> Image.Image:
    """`capped` says that an image may have fewer tokens than the plan."""
    pale = "; pale: as keys and values only" if any(block.tokens_kv > block.tokens_mlp for block in plan.blocks) else ""
    panels = [
        ("tokens", f"{'at most, ' if capped else ''}prefix tokens included{pale}", token_bars(shape, plan), BLUE),
        ("attention width", "heads x head width", attention_bars(shape, plan), ORANGE),
        ("MLP width", "hidden units", hidden_bars(shape, plan), GREEN),
    ]
    image = Image.new("RGB", (_WIDTH, len(panels) * (_HEAD + _BARS + _FOOT)), PAPER)
    for place, (title, note, bars, colour) in enumerate(panels):
        _panel(image, place * (_HEAD + _BARS + _FOOT), title, note, bars, colour)
    return image


def token_bars(shape: ViTShape, plan: Plan) -> list[Bar]:
    return [
        Bar(value=b.tokens_mlp, pale=b.tokens_kv, dense=own.tokens, text=_tokens(b.tokens_kv, b.tokens_mlp))
        for own, b in zip(shape.blocks, plan.blocks, strict=True)
    ]


def attention_bars(shape: ViTShape, plan: Plan) -> list[Bar]:
    return [
        Bar(value=b.attention_width, dense=own.attention_width, text=f"{b.heads}x{b.head_width}")
        for own, b in zip(shape.blocks, plan.blocks, strict=True)
    ]


def hidden_bars(shape: ViTShape, plan: Plan) -> list[Bar]:
    return [Bar(value=b.hidden, dense=own.hidden, text=str(b.hidden)) for own, b in zip(shape.blocks, plan.blocks, strict=True)]


def _tokens(kv: int, mlp: int) -> str:
    return str(kv) if kv == mlp else f"{kv} > {mlp}"


def _panel(image: Image.Image, top: int, title: str, note: str, bars: list[Bar], colour: Colour) -> None:
    draw = ImageDraw.Draw(image)
    write(image, (0, top), title, size=14)
    write(image, (text_width(title, 14) + 10, top + 2), f"{note}; outlined: the dense model", size=12, colour=SOFT)
    base, dense = top + _HEAD + _BARS, bars[0].dense
    write(image, (_LEFT - 8, base - _BARS), f"{dense}", size=12, colour=SOFT, anchor="rm")
    write(image, (_LEFT - 8, base), "0", size=12, colour=SOFT, anchor="rm")
    step = min((_WIDTH - _LEFT) // len(bars), _WIDEST)
    for block, bar in enumerate(bars):
        left = _LEFT + block * step + max(1, step // 10)
        right = _LEFT + (block + 1) * step - max(1, step // 10)
        draw.rectangle([left, base - _BARS, right, base], outline=RULE)
        for value, fill in ((bar.pale, PALE_BLUE), (bar.value, colour)):
            if value:
                draw.rectangle([left, base - max(1, round(_BARS * value / bar.dense)), right, base], fill=fill)
        middle = (left + right) // 2
        write(image, (middle, base - _BARS - 17), shorten(bar.text, step, 12), size=12, colour=INK, anchor="ma")
        write(image, (middle, base + 5), f"{block}", size=12, colour=SOFT, anchor="ma")
    draw.line([(_LEFT, base), (_LEFT + step * len(bars), base)], fill=SOFT)
