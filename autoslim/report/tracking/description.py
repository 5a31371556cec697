"""The descriptions of the experiment and of a search's run in MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoslim.core.budget import format_flops
from autoslim.core.result import ParetoFront, TrialResult, TrialState
from autoslim.core.urls import hide_password
from autoslim.report.dense_models import describe_teachers, model_names
from autoslim.store import StoredJob, StoredTrial

EXPERIMENT_NOTE = """\
Searches by **autoslim**: a parent run for every search, and below it a child run for every trial.

* The parent's description holds the Pareto front; its artifact `front.html` shows it as a picture, at the end `report.html` has
  all that there is to know of the search; `front.parquet` and `trials.parquet` hold the numbers.
* `tags.pareto = 'true'` finds the trials on the Pareto front; `tags.selected_for` names the budgets whose model a trial is.
* For a scatter plot take `gflops` as x and `val_accuracy` as y, in a search for features `val_agreement`. FLOPs are
  multiply-accumulates per image.
* Everything here is written from the search's own store, which has all of it; `autoslim sync DIR` writes it again.
"""

_HEAD = """\
| Trial | Method | {score}{unit} | FLOPs | Of dense | Parameters | Chosen for | Knobs |
|---:|---|---:|---:|---:|---:|---|---|"""

_MOST_ROWS = 12
"""Of a longer front the chosen trials and the most accurate others are shown."""

_LONGEST = 7500  # MLflow keeps 8000 characters of a tag


def front_note(job: StoredJob, trials: Sequence[StoredTrial]) -> str:
    """Markdown: what was searched, how far it is, and the front, cheapest first, with the knobs in which its trials differ."""
    spec, base, score = job.job, job.base, job.job.dataset.score
    images = None if base is None else base.validation_images
    model, data = _cell(model_names(spec)), _cell(hide_password(spec.dataset.source))
    lines = [f"**{model}** on **{data}**, job {job.state.value}: {_counts(trials)}."]
    if base is not None:
        for label, facts in (base.starts or {"": base}).items():
            name, flops = f"Dense model {_cell(label)}".strip(), format_flops(facts.dense_flops)
            lines.append(f"{name}: {score.title} {score.spaced(facts.dense_accuracy, images)} at {flops} multiply-accumulates.")
        lines += [f"{_cell(line)}." for line in describe_teachers(base)]
    front = ParetoFront.of(trial.result for trial in trials).results
    if not front:
        return "\n\n".join([*lines, "No trial is complete yet."])
    shown, common = _shown(job, front), _common_knobs(front)
    if common:
        lines.append(f"All of the front: {_cell(_knobs(common))[:600]}.")
    text = "\n\n".join(
        [*lines, "### Pareto front", _HEAD.format(score=score.title.capitalize(), unit=score.interval_unit(images))]
    )
    rows = [_row(job, result, common, images) for result in shown]
    while len(text) + sum(len(row) + 1 for row in rows) > _LONGEST:
        rows.pop()
    left = len(front) - len(rows)
    return "\n".join([text, *rows, *([f"\n{left} more are in `front.json`."] if left else [])])


def _shown(job: StoredJob, front: Sequence[TrialResult]) -> list[TrialResult]:
    """In the order of the front, in which the most accurate ones come last."""
    chosen = [result for result in front if result.number in job.chosen.values()]
    others = [result for result in front if result not in chosen]
    kept = {result.number for result in [*chosen, *reversed(others)][:_MOST_ROWS]}
    return [result for result in front if result.number in kept]


def _common_knobs(front: Sequence[TrialResult]) -> dict[str, Any]:
    """The knobs that more than one trial of the front has, all at the same value."""
    values: dict[str, list[Any]] = {}
    for result in front:
        for name, value in result.recipe.flat_knobs.items():
            values.setdefault(name, []).append(value)
    return {name: found[0] for name, found in values.items() if len(found) > 1 and all(value == found[0] for value in found)}


def _row(job: StoredJob, result: TrialResult, common: Mapping[str, Any], images: int | None) -> str:
    share = "" if job.base is None else f"{100 * (result.flops or 0) / job.base.dense_flops:.1f} %"
    chosen = ", ".join(label for label, number in job.chosen.items() if number == result.number)
    own = {name: value for name, value in result.recipe.flat_knobs.items() if name not in common}
    found = job.job.dataset.score.with_interval(result.accuracy or 0.0, images)
    cells = [str(result.number), result.recipe.title, found, format_flops(result.flops or 0)]
    cells += [share, "" if result.params is None else f"{result.params / 1e6:.4g} M", chosen, _knobs(own)[:300]]
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _knobs(knobs: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_short(value)}" for name, value in knobs.items())


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _counts(trials: Sequence[StoredTrial]) -> str:
    counts = {state: sum(trial.result.state is state for trial in trials) for state in TrialState}
    return ", ".join(f"{count} {state.value}" for state, count in counts.items() if count) or "no trial yet"


def _cell(text: str) -> str:
    """Text that neither ends a cell nor starts markup."""
    for sign in "\\`*_[]<>|#&":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
