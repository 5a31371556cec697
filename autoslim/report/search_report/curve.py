"""A curve in steps as SVG, small enough to be read on a phone."""

from __future__ import annotations

import dataclasses
from html import escape

from autoslim.report.scale import Scale, span, tick_labels

_WIDTH, _HEIGHT = 480.0, 280.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 468.0, 12.0, 228.0
_PERCENT = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """`points` are (x, share), x rising; between two points the earlier share holds. `name` says it all to whoever cannot see it."""

    name: str
    across: str
    up: str
    points: tuple[tuple[float, float], ...]


def draw_curve(curve: Curve) -> str:
    """From 0 to the last point."""
    last = max(curve.points[-1][0], 1e-9)
    x = Scale(low=0.0, high=last, start=_LEFT, end=_RIGHT)
    low, high = span((share for _, share in curve.points), at_least=0.02, high=1.005)
    y = Scale(low=low, high=high, start=_BOTTOM, end=_TOP)
    path = "".join(f"H{x(at)}V{y(share)}" for at, share in curve.points[1:])
    first = f"M{x(curve.points[0][0])},{y(curve.points[0][1])}"
    dots = "".join(f'<circle class="dot" cx="{x(at)}" cy="{y(share)}" r="3"/>' for at, share in _rises(curve))
    return (
        f'<svg class="curve" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{escape(curve.name)}">'
        f'{_axes(curve, x, y)}<path class="line" d="{first}{path}"/>{dots}</svg>'
    )


def _rises(curve: Curve) -> list[tuple[float, float]]:
    """The points at which the share is another one than before."""
    shares = [None, *(share for _, share in curve.points)]
    return [point for point, before in zip(curve.points, shares, strict=False) if point[1] != before]


def _axes(curve: Curve, x: Scale, y: Scale) -> str:
    parts = []
    across, up = x.ticks(5), y.ticks(5)
    for tick, text in zip(across, tick_labels(across), strict=True):
        parts.append(f'<text x="{x(tick)}" y="{_BOTTOM + 18}" text-anchor="middle">{text}</text>')
    for tick, text in zip(up, tick_labels(up, unit=_PERCENT), strict=True):
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y(tick)}" x2="{_RIGHT}" y2="{y(tick)}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y(tick) + 5}" text-anchor="end">{text}</text>')
    parts.append(f'<path class="axis" fill="none" d="M{_LEFT},{_TOP}V{_BOTTOM}H{_RIGHT}"/>')
    parts.append(
        f'<text class="title" x="{(_LEFT + _RIGHT) / 2}" y="{_BOTTOM + 42}" text-anchor="middle">{escape(curve.across)}</text>'
    )
    turned = f'transform="translate(16,{(_TOP + _BOTTOM) / 2}) rotate(-90)" text-anchor="middle"'
    parts.append(f'<text class="title" {turned}>{escape(curve.up)}</text>')
    return "".join(parts)
