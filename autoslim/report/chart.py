"""The chart: the score over FLOPs, or over latency, as SVG that can be read without its script.

It is drawn here and not by a charting library, because `front.html` has to work from a folder, an artifact store and a mail, with no
network. A library would have to be inside every page: plotly.min.js 7.1.0 has 4.8 MB (1.5 MB compressed), Vega 6.4.0 with Vega-Lite
6.4.3 and Vega-Embed 7.3.0 has 0.83 MB minified, and this page's own style and script have 12 KB. Both libraries draw with their script
only. Here the SVG is in the page: it is visible where scripts are blocked, as in many artifact viewers, the page's Content-Security-Policy
allows one script by its hash, every point has an accessible name and can be reached with the arrow keys, and the table below the chart
has the same numbers.
"""

from __future__ import annotations

import itertools
from html import escape

from autoslim.core.result import TrialResult, TrialState
from autoslim.report.label import Box, Labels, stack_in_rows
from autoslim.report.mark import STAR, colour, shape
from autoslim.report.scale import Scale, span, tick_labels
from autoslim.report.search_view import SearchView

_WIDTH, _HEIGHT = 1120.0, 600.0
_LEFT, _RIGHT, _BOTTOM = 66.0, 1100.0, 546.0
_ROW = 17.0


def draw_chart(view: SearchView) -> str:
    shown = [result for result in view.results if view.is_shown(result)]
    x = Scale(**_span(*_x_span(view, shown)), start=_LEFT, end=_RIGHT)
    budgets = [(x(cost), label) for label, cost in view.marks()]
    rows = stack_in_rows(budgets, right=_RIGHT)
    top = 14.0 + _ROW * (1 + max((row for _, row in rows), default=0))
    y = Scale(**_span(*_y_span(view, shown)), start=_BOTTOM, end=top)
    labels = Labels(Box(left=_LEFT, top=top, right=_RIGHT, bottom=_BOTTOM))
    parts = [_axes(view, x, y, top)]
    labels.reserve(*_lines(view, x, y, top))
    for (line, label), (middle, row) in zip(budgets, rows, strict=True):
        base = top - 6 - _ROW * row
        parts.append(f'<line class="budget" x1="{line}" y1="{base + 3:.1f}" x2="{line}" y2="{_BOTTOM}"/>')
        parts.append(f'<text class="budget-label" x="{middle:.1f}" y="{base:.1f}">{escape(label)}</text>')
    parts.append(_points(view, shown, x, y))
    parts.append(_floor(view, y, labels))
    parts.append(_notes(view, shown, x, y, labels))
    if not shown:
        parts.append(
            f'<text class="empty" x="{(_LEFT + _RIGHT) / 2}" y="{(top + _BOTTOM) / 2}">No trial has finished yet.</text>'
        )
    over = "latency" if view.is_latency else "FLOPs"
    name = f"{view.score.name.capitalize()} over {over} of {len(shown)} trials; the table below holds the same numbers"
    return f'<svg data-cost="{over}" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="group" aria-label="{name}">{"".join(parts)}</svg>'


def _span(low: float, high: float) -> dict[str, float]:
    return {"low": low, "high": high}


def _x_span(view: SearchView, shown: list[TrialResult]) -> tuple[float, float]:
    values = [view.cost_of(result) or 0.0 for result in shown] + [cost for _, cost in view.marks()]
    values += [cost for _, cost, _ in view.dense_points()]
    return span(values, at_least=max(values, default=1.0) * 0.05)


def _y_span(view: SearchView, shown: list[TrialResult]) -> tuple[float, float]:
    values = [result.accuracy or 0.0 for result in shown if not view.far_below(result)]
    values += [view.base.dense_accuracy] if view.base else []
    values += [facts.dense_accuracy for facts in view.base.starts.values()] if view.base else []
    values += [] if view.floor is None else [view.floor.least]
    # A little room beyond 0 and 100 %, so that marks are not cut in half.
    return span(values, at_least=0.02 if values else 1.0, low=-0.01 if values else 0.0, high=1.005)


def _axes(view: SearchView, x: Scale, y: Scale, top: float) -> str:
    parts = []
    size, _ = view.cost_unit
    across, up = [t for t in x.ticks(9) if t >= 0], [t for t in y.ticks(8) if 0 <= t <= 1]
    for tick, text in zip(across, tick_labels(across, unit=size), strict=True):
        parts.append(f'<line class="grid" x1="{x(tick)}" y1="{top}" x2="{x(tick)}" y2="{_BOTTOM}"/>')
        parts.append(f'<text x="{x(tick)}" y="{_BOTTOM + 18}" text-anchor="middle">{text}</text>')
    for tick, text in zip(up, tick_labels(up, unit=view.score.unit), strict=True):
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y(tick)}" x2="{_RIGHT}" y2="{y(tick)}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y(tick) + 4}" text-anchor="end">{text}</text>')
    parts.append(f'<path class="axis" fill="none" d="M{_LEFT},{top}V{_BOTTOM}H{_RIGHT}"/>')
    title = escape(view.cost_title)
    parts.append(f'<text class="title" x="{(_LEFT + _RIGHT) / 2}" y="{_BOTTOM + 42}" text-anchor="middle">{title}</text>')
    middle = (top + _BOTTOM) / 2
    turned = f'transform="translate(18,{middle}) rotate(-90)" text-anchor="middle"'
    parts.append(f'<text class="title" {turned}>{escape(view.score.axis)}</text>')
    return "".join(parts)


def _points(view: SearchView, shown: list[TrialResult], x: Scale, y: Scale) -> str:
    front = {result.number for result in view.front}
    behind = [_point(view, result, x, y, "behind") for result in shown if result.number not in front]
    before = [_point(view, result, x, y, "") for result in shown if result.number in front]
    return "".join([*behind, _front_line(view, x, y), *before])


def _point(view: SearchView, result: TrialResult, x: Scale, y: Scale, extra: str) -> str:
    cost = view.cost_of(result)
    assert cost is not None
    assert result.accuracy is not None
    method = view.methods.index(result.recipe.method)
    size = 5.0 if len(view.results) <= 300 else 3.6
    partial = "" if result.state is TrialState.COMPLETE else "partial"
    level = _BOTTOM - 6 if view.far_below(result) else y(result.accuracy)
    place = f'transform="translate({x(cost)},{level}) scale({size if extra else size * 1.15:.2f})"'
    name = f"trial {result.number}, {result.recipe.title}, {view.score_text(result.accuracy)} at {view.cost_text(cost)}, {result.state}"
    classes = " ".join(["point", colour(method), *extra.split(), *partial.split()])
    data = f'data-method="{method}" data-trial="{result.number}" data-x="{result.flops if not view.is_latency else cost}"'
    return f'<path class="{classes}" d="{shape(method)}" {place} {data} tabindex="-1" role="img" aria-label="{escape(name)}"/>'


def _floor(view: SearchView, y: Scale, labels: Labels) -> str:
    """The accuracy that the search holds on to."""
    if view.floor is None:
        return ""
    level = y(view.floor.least)
    line = f'<line class="budget" x1="{_LEFT}" y1="{level}" x2="{_RIGHT}" y2="{level}"/>'
    return line + labels.place(f"{view.floor.label}: {view.score.spaced(view.floor.least)}", _LEFT + 90, level, classes="note")


def _front_line(view: SearchView, x: Scale, y: Scale) -> str:
    corners = _corners(view, x, y)
    path = "L".join(f"{across},{up}" for across, up in corners)
    return f'<path class="front" d="M{path}"/>' if corners else ""


def _corners(view: SearchView, x: Scale, y: Scale) -> list[tuple[float, float]]:
    """Between two models the cheaper one is the best there is: steps, not slopes."""
    places = [(x(view.cost_of(result) or 0.0), y(result.accuracy or 0.0)) for result in view.front]
    corners = places[:1]
    for across, up in places[1:]:
        corners += [(across, corners[-1][1]), (across, up)]
    end = _RIGHT if view.dense_cost is None else x(view.dense_cost)
    return [*corners, (max(end, corners[-1][0]), corners[-1][1])] if corners else []


def _lines(view: SearchView, x: Scale, y: Scale, top: float) -> list[Box]:
    """What a label had better not lie on."""
    corners = _corners(view, x, y)
    boxes = [
        Box(left=min(a, c) - 2, top=min(b, d) - 2, right=max(a, c) + 2, bottom=max(b, d) + 2)
        for (a, b), (c, d) in itertools.pairwise(corners)
    ]
    boxes += [Box(left=x(cost) - 1, top=top, right=x(cost) + 1, bottom=_BOTTOM) for _, cost in view.marks()]
    if view.base is not None:
        level = y(view.base.dense_accuracy)
        boxes.append(Box(left=_LEFT, top=level - 1, right=_RIGHT, bottom=level + 1))
    return boxes


def _notes(view: SearchView, shown: list[TrialResult], x: Scale, y: Scale, labels: Labels) -> str:
    parts = []
    if len(shown) <= 60:
        for result in shown:
            labels.reserve_mark(x(view.cost_of(result) or 0.0), y(result.accuracy or 0.0), 6.0)
    if view.base is not None and view.dense_cost is not None:
        at_x, at_y = x(view.dense_cost), y(view.base.dense_accuracy)
        parts.append(f'<line class="dense" x1="{_LEFT}" y1="{at_y}" x2="{_RIGHT}" y2="{at_y}"/>')
        for label, cost, accuracy in view.dense_points():
            at_x, at_y = x(cost), y(accuracy)
            parts.append(f'<path class="star" d="{STAR}" transform="translate({at_x},{at_y}) scale(7)"/>')
            labels.reserve_mark(at_x, at_y, 9.0)
            parts.append(
                labels.place(f"dense {label} {view.score.spaced(accuracy)}".replace("  ", " "), at_x, at_y, classes="note")
            )
    rings = [(label, result) for label, result in view.chosen_results() if view.is_shown(result)]
    for _, result in rings:
        labels.reserve_mark(x(view.cost_of(result) or 0.0), y(result.accuracy or 0.0), 10.0)
    for label, result in rings:
        at_x, at_y = x(view.cost_of(result) or 0.0), min(y(result.accuracy or 0.0), _BOTTOM - 6)
        owner = f'data-method="{view.methods.index(result.recipe.method)}"'
        parts.append(f'<circle class="ring" cx="{at_x}" cy="{at_y}" r="10" {owner}/>')
        parts.append(labels.place(f"{label}: trial {result.number}", at_x, at_y, classes="note", attributes=owner))
    return "".join(parts)
