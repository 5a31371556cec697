"""Every method and chain beside the others: how many trials it had, what became of them, and its best model within each budget."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from autoslim.core.figures import format_figure
from autoslim.core.interval import wilson
from autoslim.core.result import TrialResult, TrialState
from autoslim.core.score import ACCURACY
from autoslim.core.selection import best_within_budgets
from autoslim.report.search_report.content import SearchContent
from autoslim.report.search_report.markup import paragraph
from autoslim.report.text_table import Cell, Column, draw_text_table, numbers


def draw_methods(content: SearchContent) -> str:
    view, images = content.view, content.validation_images
    groups: dict[str, list[TrialResult]] = {}
    for result in view.results:
        groups.setdefault(result.recipe.title, []).append(result)
    if not groups:
        return paragraph("No trial has begun yet.")
    budgets = _budgets(content)
    best = {name: best_within_budgets(results, budgets, view.job.limits) for name, results in groups.items()}
    columns = (
        Column("Method"),
        *numbers("Trials", "Complete", "Stopped early", "Failed", "On the front"),
        *numbers(*(f"Best within {label}{content.score.interval_unit(images)}" for label in budgets)),
        *numbers("Seconds a trial"),
    )
    # Methods alone before chains, which have a + between their methods.
    names = sorted(groups, key=lambda name: (name.count("+"), name))
    rows = [_row(content, name, groups[name], best, budgets) for name in names]
    title = f"Validation {content.score.title} of the best complete trial within each budget, the highest in bold; median seconds"
    return "\n".join([draw_text_table(title, columns, rows), _caution(content)])


def _budgets(content: SearchContent) -> dict[str, int]:
    """By label, of those that are known."""
    base, job = content.stored.base, content.stored.job
    return {} if base is None else {budget.label: budget.flops_of(base.dense_flops) for budget in job.budgets}


def _row(
    content: SearchContent,
    name: str,
    results: Sequence[TrialResult],
    best: Mapping[str, Mapping[str, TrialResult]],
    budgets: Mapping[str, int],
) -> list[str | Cell]:
    states = [result.state for result in results if result.duplicate_of is None]
    front = {result.number for result in content.view.front}
    seconds = [result.seconds for result in results if result.state is TrialState.COMPLETE and result.seconds]
    counts = (
        len(results),
        states.count(TrialState.COMPLETE),
        states.count(TrialState.STOPPED),
        states.count(TrialState.FAILED) + states.count(TrialState.INFEASIBLE),
        sum(result.number in front for result in results),
    )
    cells = [_best_cell(content, name, label, best) for label in budgets]
    return [name, *map(str, counts), *cells, format_figure(statistics.median(seconds)) if seconds else ""]


def _best_cell(content: SearchContent, name: str, label: str, best: Mapping[str, Mapping[str, TrialResult]]) -> Cell:
    own = best[name].get(label)
    if own is None:
        return Cell(text="none")
    highest = max(found[label].accuracy or 0.0 for found in best.values() if label in found)
    text = f"{content.score.with_interval(own.accuracy, content.validation_images)}, trial {own.number}"
    return Cell(text=text, strong=own.accuracy == highest)


def _caution(content: SearchContent) -> str:
    """How much of a difference the validation images can show."""
    images, base = content.validation_images, content.stored.base
    text = "A method that had more trials had more chances, and the best of several trials flatters it."
    if images and base is not None and content.score is ACCURACY:
        interval = wilson(base.dense_accuracy, images)
        text += (
            f" On {images:,} validation images the dense model's {interval.value:.1%} has a 95 % interval of {interval.low:.1%} to "
            f"{interval.high:.1%}: smaller differences between methods may be chance."
        )
    return paragraph(text)
