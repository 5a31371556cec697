"""The table below the chart, and the content of a trial's tooltip."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from html import escape
from typing import Any

from autoslim.core.figures import format_epochs
from autoslim.core.result import TrialResult
from autoslim.report.search_view import SearchView, percent

_Cell = tuple[str, float | None]


@dataclasses.dataclass(frozen=True)
class _Column:
    """`kind` is `number`, sorted by the cell's second entry, or the class of a text."""

    name: str
    kind: str
    cell: Callable[[SearchView, TrialResult], _Cell]


_LATENCIES = (
    _Column("Latency", "number", lambda view, r: ("" if r.latency_ms is None else f"{r.latency_ms:.4g} ms", r.latency_ms)),
    _Column(
        "Measured",
        "number",
        lambda view, r: ("" if r.latency_measured_ms is None else f"{r.latency_measured_ms:.4g} ms", r.latency_measured_ms),
    ),
)
_MODEL = _Column("Model", "text", lambda view, r: (r.recipe.model, None))
"""Only where there are several starts."""
_COLUMNS = (
    _Column("Trial", "number", lambda view, r: (str(r.number), r.number)),
    _Column("Method", "text", lambda view, r: (r.recipe.method, None)),
    _Column("Score", "number", lambda view, r: (view.score_text(r.accuracy), r.accuracy)),
    _Column("FLOPs", "number", lambda view, r: (view.flops(r.flops), r.flops)),
    _Column("Of dense", "number", lambda view, r: (percent(_share(view, r)), _share(view, r))),
    _Column("Parameters", "number", lambda view, r: ("" if r.params is None else f"{r.params / 1e6:.4g} M", r.params)),
    _Column("Epochs", "number", lambda view, r: ("" if r.epochs is None else format_epochs(r.epochs), r.epochs)),
    _Column("Seconds", "number", lambda view, r: ("" if r.seconds is None else f"{r.seconds:.1f}", r.seconds)),
    _Column("State", "text", lambda view, r: (r.state.value, None)),
    _Column("Knobs", "wide", lambda view, r: (", ".join(f"{name}={value}" for name, value in _knobs(r).items()), None)),
    _Column("Error", "wide", lambda view, r: (_trouble(r), None)),
    _Column("Proposed by", "text", lambda view, r: (r.origin, None)),
)


def _columns(view: SearchView) -> list[_Column]:
    """Latencies behind the parameters, and errors, where there are any; the score under its own name."""
    title = view.score.title.capitalize()
    columns = [dataclasses.replace(column, name=title) if column.name == "Score" else column for column in _COLUMNS]
    if not any(map(_trouble, view.results)):
        columns = [column for column in columns if column.name != "Error"]
    if view.has_starts:
        columns.insert(next(index for index, column in enumerate(columns) if column.name == "Method") + 1, _MODEL)
    if view.has_latency:
        place = next(index for index, column in enumerate(columns) if column.name == "Parameters") + 1
        columns[place:place] = _LATENCIES
    return columns


def draw_table(view: SearchView) -> str:
    heads = [f'<th scope="col" class="{c.kind}"><button type="button">{c.name}</button></th>' for c in _columns(view)]
    front = {result.number for result in view.front}
    rows = "\n".join(_row(view, result, result.number in front) for result in view.results)
    return (
        f'<div class="scroll"><table class="trials"><thead><tr>{"".join(heads)}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def tooltip(view: SearchView, result: TrialResult) -> dict[str, Any]:
    """What the tooltip of a trial's point shows: `title`, and `values`, pairs of a name and a text; what is not known is left out."""
    training = result.recipe.training
    values = [(c.name, c.cell(view, result)[0]) for c in _columns(view) if c.kind == "number" and c.name != "Trial"]
    values += [("State", result.state.value), ("Proposed by", result.origin), ("Solved onto", view.flops(result.recipe.budget))]
    if result.flops_mean != result.flops_max:
        values += [
            ("FLOPs of an image, on average", view.flops(result.flops_mean)),
            ("FLOPs, at most", view.flops(result.flops_max)),
        ]
    values += list(_knobs(result).items())
    values += [
        ("Learning rate", f"{training.lr:g}"),
        ("Batch size", str(training.batch_size)),
        ("Distillation", f"{training.distillation:g}"),
    ]
    values += [("Seed", str(result.recipe.seed)), ("Error", _trouble(result))]
    labels = [label for label, number in view.chosen.items() if number == result.number]
    title = f"Trial {result.number}: {result.recipe.title}" + (f" (chosen for {', '.join(labels)})" if labels else "")
    return {"title": title, "values": [pair for pair in values if pair[1]]}


def _row(view: SearchView, result: TrialResult, pareto: bool) -> str:
    cells = []
    for column in _columns(view):
        text, value = column.cell(view, result)
        sorted_by = f' data-value="{"" if value is None else value}"' if column.kind == "number" else ""
        cells.append(f'<td class="{column.kind}"{sorted_by}>{escape(text)}</td>')
    method = view.methods.index(result.recipe.method)
    kind = ' class="pareto"' if pareto else ""
    return f'<tr data-trial="{result.number}" data-method="{method}"{kind}>{"".join(cells)}</tr>'


def _share(view: SearchView, result: TrialResult) -> float | None:
    return None if view.base is None or result.flops is None else result.flops / view.base.dense_flops


def _trouble(result: TrialResult) -> str:
    if result.duplicate_of is not None:
        return f"repeats trial {result.duplicate_of}"
    return ": ".join(text for text in (result.error_class, result.error) if text)


def _knobs(result: TrialResult) -> dict[str, str]:
    """A single method's knobs go by their own names."""
    knobs = result.recipe.flat_knobs
    if len(result.recipe.steps) == 1:
        knobs = dict(result.recipe.steps[0].knobs)
    return {name: brief(value) for name, value in knobs.items()}


def brief(value: Any) -> str:
    """A setting's value as job files have it."""
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
