"""The chart of all trials with its table, as in front.html."""

from __future__ import annotations

import dataclasses

from autoslim.report.front_parts import draw_front
from autoslim.report.search_report.content import MOST_TRIALS, SearchContent
from autoslim.report.search_report.markup import paragraph
from autoslim.report.search_view import SearchView


def draw_section(content: SearchContent) -> str:
    view = limited(content.view, MOST_TRIALS)
    left_out = len(content.view.results) - len(view.results)
    note = (
        f"Of {len(content.view.results)} trials the {len(view.results)} most accurate are shown; front.html has all."
        if left_out
        else ""
    )
    return (paragraph(note) if note else "") + draw_front(view)


def limited(view: SearchView, most: int) -> SearchView:
    """With `most` trials: those of the front and the chosen ones, then the most accurate ones, in the order of their numbers."""
    if len(view.results) <= most:
        return view
    needed = {result.number for result in view.front} | set(view.chosen.values())
    ranked = sorted(view.results, key=lambda result: (result.number not in needed, -(result.accuracy or 0.0), result.number))
    return dataclasses.replace(view, results=tuple(sorted(ranked[:most], key=lambda result: result.number)))
