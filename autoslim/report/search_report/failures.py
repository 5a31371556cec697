"""Trials that gave no model, and why; and those that the scheduler stopped."""

from __future__ import annotations

from collections import Counter

from autoslim.core.figures import format_epochs
from autoslim.core.result import TrialResult, TrialState
from autoslim.report.search_report.content import LONGEST, SearchContent
from autoslim.report.search_report.markup import paragraph, shortened
from autoslim.report.text_table import Column, draw_text_table, numbers

MOST_ROWS = 60
"""Failed trials that are listed one by one."""


def draw_failures(content: SearchContent) -> str:
    # A repeated recipe failed once.
    results = [result for result in content.view.results if result.duplicate_of is None]
    failed = [result for result in results if result.state in (TrialState.FAILED, TrialState.INFEASIBLE)]
    stopped = [result for result in results if result.state is TrialState.STOPPED]
    parts = []
    if content.stored.error:
        parts.append(paragraph(f"The search as a whole ended with an error: {shortened(content.stored.error, LONGEST)}"))
    parts += [_causes(failed), _listed(failed)] if failed else [paragraph("No trial failed.")]
    if stopped:
        parts.append(_stopped(content, stopped))
    return "\n".join(parts)


def _causes(failed: list[TrialResult]) -> str:
    counts = Counter((result.state.value, result.error_class or "unknown") for result in failed)
    rows = [[error_class, state, str(count)] for (state, error_class), count in counts.most_common()]
    return draw_text_table("Failed trials by their error", (Column("Error"), Column("State"), *numbers("Trials")), rows)


def _listed(failed: list[TrialResult]) -> str:
    rows = [
        [str(result.number), result.recipe.title, result.state.value, ": ".join(filter(None, (result.error_class, result.error)))]
        for result in failed[:MOST_ROWS]
    ]
    more = f", the first {MOST_ROWS} of {len(failed)}; trials.parquet has all" if len(failed) > MOST_ROWS else ""
    columns = (Column("Trial", "number"), Column("Method"), Column("State"), Column("Reason", "wide"))
    return draw_text_table(f"Failed trials{more}", columns, rows)


def _stopped(content: SearchContent, stopped: list[TrialResult]) -> str:
    trials = "One trial was" if len(stopped) == 1 else f"{len(stopped)} trials were"
    text = f"{trials} stopped early by the scheduler ({content.stored.job.scheduler}), which is no failure."
    rows = [
        [str(result.number), result.recipe.title, format_epochs(result.epochs or 0.0), result.stopped or "no reason recorded"]
        for result in stopped[:MOST_ROWS]
    ]
    more = f", the first {MOST_ROWS} of {len(stopped)}" if len(stopped) > MOST_ROWS else ""
    columns = (Column("Trial", "number"), Column("Method"), *numbers("Epochs"), Column("Reason", "wide"))
    return paragraph(text) + draw_text_table(f"Trials that were stopped{more}", columns, rows)
