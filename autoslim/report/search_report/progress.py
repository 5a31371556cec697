"""How the front grew: its hypervolume over the epochs that the trials had trained by then."""

from __future__ import annotations

import dataclasses

from autoslim.core.figures import format_epochs
from autoslim.core.result import Origin, ParetoFront, TrialResult
from autoslim.report.search_report.content import SearchContent
from autoslim.report.search_report.curve import Curve, draw_curve
from autoslim.report.search_report.markup import paragraph
from autoslim.report.text_table import Column, draw_text_table, numbers

MOST_ROWS = 30
"""Steps in the table; the last ones are the smallest, and the first ones are left out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """What the trial that ended here left: epochs of all trials so far, and the front's hypervolume, a share."""

    trial: TrialResult
    epochs: float
    hypervolume: float


def draw_progress(content: SearchContent) -> str:
    if content.stored.base is None:
        return paragraph("The dense model has not been measured yet, and there is no area to fill.")
    steps = hypervolume_steps(content)
    if not steps or steps[-1].hypervolume == 0:
        return paragraph("No complete trial is above chance yet, so that the front covers no area.")
    last = steps[-1]
    curve = Curve(
        name=f"Hypervolume over epochs: {last.hypervolume:.1%} after {format_epochs(last.epochs)} epochs; the table below has every step",
        across="Epochs of all trials",
        up="Hypervolume (%)",
        points=tuple((step.epochs, step.hypervolume) for step in steps),
    )
    text = (
        "The hypervolume is the area above chance and left of the costliest dense model that the front covers, as a share of the whole: "
        f"{last.hypervolume:.2%} after {format_epochs(last.epochs)} epochs of {len(steps)} trials that have ended. Epochs count when "
        "their trial ends; adapting the dense model and repeated recipes are not among them."
    )
    drawn = [draw_curve(curve)] if last.epochs else []
    return "\n".join([paragraph(text), *drawn, _table(steps)])


def hypervolume_steps(content: SearchContent) -> list[Step]:
    """One for each trial that has ended, in the order of their ends."""
    base = content.stored.base
    assert base is not None
    ended = sorted((trial for trial in content.trials if trial.ended_at), key=lambda t: (t.ended_at or "", t.result.number))
    front, epochs, steps = ParetoFront(results=()), 0.0, []
    for trial in ended:
        # A trial that another one surpasses now is surpassed for good: the front so far is all that has to be kept.
        front = ParetoFront.of([*front.results, trial.result])
        epochs += _trained(trial.result)
        volume = front.hypervolume(dense_flops=base.front_flops, chance=base.chance)
        steps.append(Step(trial=trial.result, epochs=epochs, hypervolume=volume))
    return steps


def _trained(result: TrialResult) -> float:
    """In this search: a trial of an earlier one, and one that repeats another, cost nothing here."""
    repeated = result.origin is Origin.REUSED or result.duplicate_of is not None
    return 0.0 if repeated else result.epochs or 0.0


def _table(steps: list[Step]) -> str:
    before = [0.0, *(step.hypervolume for step in steps)]
    grown = [step for step, earlier in zip(steps, before, strict=False) if step.hypervolume > earlier]
    rows = [
        [str(step.trial.number), step.trial.recipe.title, format_epochs(step.epochs), f"{step.hypervolume:.2%}"]
        for step in grown[-MOST_ROWS:]
    ]
    title = f"The trials that moved the front{f', the last {MOST_ROWS} of {len(grown)}' if len(grown) > MOST_ROWS else ''}"
    columns = (Column("Trial", "number"), Column("Method"), *numbers("Epochs so far", "Hypervolume"))
    return draw_text_table(title, columns, rows)
