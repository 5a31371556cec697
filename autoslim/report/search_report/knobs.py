"""Which settings mattered, as far as the trials can tell."""

from __future__ import annotations

from autoslim.core.score import ACCURACY
from autoslim.report.search_report.content import SearchContent
from autoslim.report.search_report.importance import FEWEST, Importance, observations, setting_importance
from autoslim.report.search_report.markup import paragraph
from autoslim.report.text_table import Cell, Column, draw_text_table, numbers

LEAST_EXPLAINED = 0.1
"""The R² below which the forest is no better than the mean, give or take chance."""

_MOST_ROWS = 12

_READING = (
    "The numbers say by how much the forest's mean error grows on trials that it has not seen when a setting's values are shuffled among "
    "them. Settings that go together share their importance: a knob that the solver moves onto the budget says much of what FLOPs say. It "
    "is what this search saw, in the region that it searched, and no law."
)


def draw_knobs(content: SearchContent) -> str:
    results = content.view.results
    found = setting_importance(results)
    if found is None:
        count = len(observations(results))
        return paragraph(
            f"{count} trials have a score; from {FEWEST} on, with settings that differ, a model of them is worth looking at."
        )
    explains = f"explains {max(found.explained, 0.0):.0%} of the variance of their validation {content.score.title}"
    model = f"A random forest over the settings of {found.trials} trials {explains} (cross-validated R² {found.explained:.2f})"
    if found.explained < LEAST_EXPLAINED:
        return paragraph(f"{model}: too little to say which settings mattered.")
    return "\n".join([paragraph(f"{model}."), _table(content, found), paragraph(_READING)])


def _table(content: SearchContent, found: Importance) -> str:
    mattered = [(name, loss) for name, loss in found.losses if loss > 0][:_MOST_ROWS]
    most = mattered[0][1] if mattered else 1.0
    unit = "points" if content.score is ACCURACY else f"in {content.score.name}"
    rows: list[list[str | Cell]] = [[name, Cell(text=_amount(content, loss), bar=loss / most)] for name, loss in mattered]
    title = f"Settings by importance{f', the first {_MOST_ROWS}' if len(mattered) == _MOST_ROWS else ''}"
    return draw_text_table(title, (Column("Setting"), *numbers(f"Error grows by, {unit}")), rows)


def _amount(content: SearchContent, loss: float) -> str:
    return f"{100 * loss:.2f}" if content.score is ACCURACY else f"{loss:.4f}"
