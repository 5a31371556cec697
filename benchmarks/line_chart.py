"""A line chart as one self-contained SVG, with the scales of `front.html`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from html import escape

from autoslim.report.scale import Scale, span, tick_labels

_WIDTH, _HEIGHT = 830.0, 420.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 540.0, 16.0, 366.0
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555", "#8b4513", "#6a3d9a", "#000000")
_DASHES = ("", "6 3", "2 3")
_STYLE = (
    "text{font:12px sans-serif;fill:#1b1f24}.grid{stroke:#d8dee4}.axis{stroke:#57606a;fill:none}.line{fill:none;stroke-width:2}"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """`spread`, where given, is half the height of a band around each point."""

    name: str
    points: Sequence[tuple[float, float]]
    spread: Sequence[float] = ()


def line_chart(lines: Sequence[Line], *, x: str, y: str, y_unit: float = 1.0) -> str:
    """`x` and `y` name the axes; labels of y are divided by `y_unit`. The legend has the lines in their order."""
    across = Scale(**_ends([a for line in lines for a, _ in line.points], margin=False), start=_LEFT, end=_RIGHT)
    up = Scale(**_ends([b for line in lines for _, b in line.points], margin=True), start=_BOTTOM, end=_TOP)
    parts = [_axes(across, up, x, y, y_unit)]
    for index, line in enumerate(lines):
        parts.append(_drawn(line, across, up, index))
    name = escape(f"{y} over {x}: {', '.join(line.name for line in lines)}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{name}">'
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _ends(values: Sequence[float], *, margin: bool) -> dict[str, float]:
    low, high = span(values, at_least=1e-3) if margin else (min(values), max(values))
    return {"low": low, "high": high}


def _axes(across: Scale, up: Scale, x: str, y: str, unit: float) -> str:
    parts = []
    wide, tall = across.ticks(6), up.ticks(7)
    for tick, text in zip(wide, tick_labels(wide), strict=True):
        parts.append(f'<line class="grid" x1="{across(tick)}" y1="{_TOP}" x2="{across(tick)}" y2="{_BOTTOM}"/>')
        parts.append(f'<text x="{across(tick)}" y="{_BOTTOM + 18}" text-anchor="middle">{text}</text>')
    for tick, text in zip(tall, tick_labels(tall, unit=unit), strict=True):
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{up(tick)}" x2="{_RIGHT}" y2="{up(tick)}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{up(tick) + 4}" text-anchor="end">{text}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT},{_TOP}V{_BOTTOM}H{_RIGHT}"/>')
    parts.append(f'<text x="{(_LEFT + _RIGHT) / 2}" y="{_BOTTOM + 40}" text-anchor="middle">{escape(x)}</text>')
    middle = (_TOP + _BOTTOM) / 2
    parts.append(f'<text transform="translate(16,{middle}) rotate(-90)" text-anchor="middle">{escape(y)}</text>')
    return "".join(parts)


def _drawn(line: Line, across: Scale, up: Scale, index: int) -> str:
    colour = _COLOURS[index % len(_COLOURS)]
    dash = f' stroke-dasharray="{_DASHES[index // len(_COLOURS) % len(_DASHES)]}"'
    places = [(across(a), up(b)) for a, b in line.points]
    parts = []
    if line.spread:
        above = [(across(a), up(b + s)) for (a, b), s in zip(line.points, line.spread, strict=True)]
        below = [(across(a), up(b - s)) for (a, b), s in zip(line.points, line.spread, strict=True)]
        parts.append(f'<path d="{_path([*above, *below[::-1]])}Z" fill="{colour}" opacity="0.12"/>')
    parts.append(f'<path class="line" d="{_path(places)}" stroke="{colour}"{dash}/>')
    level = _TOP + 10 + 20 * index
    parts.append(f'<path class="line" d="M{_RIGHT + 14},{level}h22" stroke="{colour}"{dash}/>')
    parts.append(f'<text x="{_RIGHT + 42}" y="{level + 4}">{escape(line.name)}</text>')
    return "".join(parts)


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{a},{b}" for a, b in places)
