"""What the search cost, and where the time went."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from autoslim.core.duration import format_duration
from autoslim.core.figures import format_epochs
from autoslim.core.result import ADAPTING, HANDING_OVER, Origin, SharedCost, TrialResult, TrialState
from autoslim.report.search_report.content import SearchContent
from autoslim.report.search_report.markup import paragraph
from autoslim.report.table import brief
from autoslim.report.text_table import Column, draw_text_table, numbers

_AROUND = {ADAPTING: "adapting the dense model", HANDING_OVER: "handing the models over"}
"""What comes before and after the trials, so that no trial's seconds have it."""


def draw_cost(content: SearchContent) -> str:
    columns = (Column("Work"), *numbers("Number", "Epochs", "Time"))
    title = "Work by kind; work that trials share was done by the first trial that needed it, in its time"
    return "\n".join([_total(content), draw_text_table(title, columns, [*_trial_rows(content), *_shared_rows(content)])])


def _total(content: SearchContent) -> str:
    if not content.cost:
        return paragraph("What devices the trials had was not recorded, so that there are no device hours.")
    kinds = {cost.method for cost in content.stored.shared}
    work = ["trials", *(name for kind, name in _AROUND.items() if kind in kinds)]
    left_out = "" if HANDING_OVER in kinds else " Handing models over is not in it."
    lasted = _lasted(content)
    wall = f" From the first trial's start to the last one's end it took {lasted}." if lasted else ""
    return paragraph(f"{', '.join(work).capitalize()}: {content.cost}.{wall}{left_out}")


def _lasted(content: SearchContent) -> str:
    starts = [datetime.datetime.fromisoformat(trial.started_at) for trial in content.trials]
    ends = [datetime.datetime.fromisoformat(trial.ended_at) for trial in content.trials if trial.ended_at]
    return format_duration((max(ends) - min(starts)).total_seconds()) if ends else ""


def _trial_rows(content: SearchContent) -> list[list[str]]:
    own = [result for result in content.view.results if result.duplicate_of is None and result.origin is not Origin.REUSED]
    refined = [result for result in own if result.origin is Origin.REFINEMENT]
    searched = [result for result in own if result.origin is not Origin.REFINEMENT]
    kinds = {f"trials, {state.value}": [result for result in searched if result.state is state] for state in TrialState}
    kinds["refinement"] = refined
    return [_row(name, results) for name, results in kinds.items() if results]


def _row(name: str, results: Sequence[TrialResult | SharedCost]) -> list[str]:
    epochs, seconds = sum(result.epochs or 0.0 for result in results), sum(result.seconds or 0.0 for result in results)
    return [name, str(len(results)), format_epochs(epochs), format_duration(seconds)]


def _shared_rows(content: SearchContent) -> list[list[str]]:
    """A row for each kind of work: a search that was resumed has handed its models over in every attempt."""
    kinds: dict[str, list[SharedCost]] = {}
    for cost in content.stored.shared:
        settings = ", ".join(f"{name} {brief(value)}" for name, value in cost.settings.items())
        kind = _AROUND.get(cost.method, f"shared: {cost.method}")
        kinds.setdefault(f"{kind}{f' ({settings})' if settings else ''}", []).append(cost)
    return [_row(name, costs) for name, costs in kinds.items()]
