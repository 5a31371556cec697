"""What front.html and a search's report have in common: the chart with its legend and its table, and sentences on the models."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from autoslim.core.job import SearchJob
from autoslim.core.result import BaseFacts, TrialResult, TrialState
from autoslim.core.urls import hide_password
from autoslim.report import table
from autoslim.report.chart import draw_chart
from autoslim.report.dense_models import describe_teachers, model_names
from autoslim.report.mark import colour, shape
from autoslim.report.search_view import SearchView

if TYPE_CHECKING:
    from autoslim.search.explanation import Explanation


def title_of_search(job: SearchJob) -> str:
    return f"{job.id}: {model_names(job)} on {hide_password(job.dataset.source)}"


def draw_front(view: SearchView) -> str:
    """The chart, or both, with legend, caption and table; front.js makes them interactive."""
    tooltips = {str(result.number): table.tooltip(view, result) for result in view.results}
    return f"""{_legend(view)}
{_costs(view)}<div class="plot">
{draw_chart(view)}
{draw_chart(dataclasses.replace(view, cost="latency_ms")) if view.has_latency else ""}
</div>
<p>{escape(_caption(view))}</p>
{table.draw_table(view)}
<div id="tip" role="status" hidden></div>
<script type="application/json" id="tooltips">{_embedded(tooltips)}</script>"""


def describe_dense(view: SearchView) -> str:
    if view.base is None:
        return "The dense model has not been measured yet."
    base = view.base
    starts = base.starts or {"": base}
    lines = [_dense_of(view, label, facts) for label, facts in starts.items()]
    return " ".join([*lines, *(f"{line}." for line in describe_teachers(base))])


def _dense_of(view: SearchView, label: str, base: BaseFacts) -> str:
    score, flops = view.score_text(base.dense_accuracy), view.flops(base.dense_flops)
    latency = "" if base.latency_ms is None else f", {base.latency_ms:.4g} ms for a batch of {view.job.limits.batch}"
    return (
        f"{f'Dense model {label}'.strip()}: {view.score.title} {score} at {flops} multiply-accumulates per image, "
        f"{base.params / 1e6:.4g} M parameters{latency}."
    )


def list_chosen(view: SearchView) -> str:
    items = []
    for label, result in view.chosen_results():
        score = f"{view.score.title} {view.score_text(result.accuracy)}"
        text = f"trial {result.number} ({result.recipe.title}), {score} at {view.flops(result.flops)}"
        text += "" if result.latency_measured_ms is None else f", {result.latency_measured_ms:.4g} ms measured"
        items.append(f"<li><b>{escape(label)}</b> {escape(text)}</li>")
    return f'<ul class="chosen" aria-label="chosen models">{"".join(items)}</ul>' if items else ""


def explain_choice(view: SearchView) -> str:
    """A sentence for each selected model, with its neighbours on the front and the random recipe beside it."""
    # Late: `autoslim slim` has no search, and needs no Optuna.
    from autoslim.search.selection import against_control

    by_number, budgets = {result.number: result for result in view.results}, dict(view.budgets())
    lines, knees = [], []
    for label, number in view.chosen.items():
        if number not in by_number or view.base is None:
            continue
        found = _explained(view, label, by_number[number], budgets)
        # Without a FLOPs budget all FLOPs of the dense model are allowed. A random recipe has no goal to keep to.
        budget = {label: budgets.get(label, view.base.dense_flops)}
        is_goal = view.job.goal is not None and label == view.job.goal.label
        control = None if is_goal else against_control(view.results, budget, label, view.job.limits, images=view.images)
        beside = [] if control is None else [control.describe(view.score)]
        lines.append("; ".join([f"{label}: {found.sentence}", *found.describe_neighbours(view.score, view.images), *beside]))
        knees.append(found.knee)
    if any(knee is not None for knee in knees):
        lines.append(f"The front bends most at trial {knees[0]}")
    return "".join(f'<p class="why">{escape(line)}.</p>' for line in lines)


def _explained(view: SearchView, label: str, selected: TrialResult, budgets: Mapping[str, int]) -> Explanation:
    # Late: `autoslim slim` has no search, and needs no Optuna.
    from autoslim.search.explanation import explain
    from autoslim.search.floor_explanation import explain_floor

    assert view.base is not None
    goal, limits = view.job.goal, view.job.limits
    if goal is not None and label == goal.label:
        return explain_floor(view.results, selected, goal, view.base, limits, score=view.score)
    # Without a FLOPs budget all FLOPs of the dense model are allowed.
    budget = budgets.get(label, view.base.dense_flops)
    return explain(view.results, selected, budget, limits, score=view.score, images=view.images)


def count_states(view: SearchView) -> str:
    """`12 trials: 8 complete, 1 stopped, 3 failed.`"""
    counts = {state: sum(result.state is state for result in view.results) for state in TrialState}
    total = len(view.results)
    parts = [f"{count} {state.value}" for state, count in counts.items() if count]
    return f"{total} trial{'' if total == 1 else 's'}" + (f": {', '.join(parts)}." if parts else ".")


def _costs(view: SearchView) -> str:
    """Buttons that show one chart at a time; without the script both stand there."""
    if not view.has_latency:
        return ""
    buttons = [
        f'<button type="button" aria-pressed="{str(cost == "FLOPs").lower()}" data-cost="{cost}">{view.score.name} over {cost}</button>'
        for cost in ("FLOPs", "latency")
    ]
    return f'<div class="costs" role="group" aria-label="what {view.score.name} is drawn over">{"".join(buttons)}</div>\n'


def _legend(view: SearchView) -> str:
    buttons = []
    for index, method in enumerate(view.methods):
        icon = f'<svg viewBox="-1.6 -1.6 3.2 3.2" aria-hidden="true"><path class="{colour(index)}" d="{shape(index)}"/></svg>'
        count = sum(result.recipe.method == method for result in view.results)
        text = f"{escape(method)} ({count})"
        buttons.append(f'<button type="button" aria-pressed="true" data-method="{index}">{icon}<span>{text}</span></button>')
    return f'<div class="legend" role="group" aria-label="methods shown">{"".join(buttons)}</div>'


def _caption(view: SearchView) -> str:
    text = count_states(view)
    repeats = sum(result.duplicate_of is not None for result in view.results)
    if repeats:
        text += f" {repeats} repeated an earlier recipe and {'is' if repeats == 1 else 'are'} not shown."
    if any(view.is_shown(result) and result.state is not TrialState.COMPLETE for result in view.results):
        text += " Hollow marks were stopped early."
    below = sum(view.is_shown(result) and view.far_below(result) for result in view.results)
    if below:
        text += f" {below} far below the others {'is' if below == 1 else 'are'} drawn on the lower edge."
    intervals = f", with intervals at 95 % for its {view.images:,} images" if view.images else ""
    return (
        text
        + f" The line is the Pareto front; FLOPs are multiply-accumulates per image, {view.score.meaning} on the validation "
        + f"split{intervals}."
        + (" Latencies are predicted from a table measured where the trials ran." if view.has_latency else "")
    )


def _embedded(data: object) -> str:
    """JSON that cannot end the script element around it."""
    return json.dumps(data).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
