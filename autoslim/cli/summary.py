"""The report of a finished search: the models, the one that the numbers speak for, and where the rest is."""

from __future__ import annotations

import shlex
import sys

from autoslim.cli.load_line import load_line
from autoslim.cli.table import columns, paragraph, warning
from autoslim.core.duration import format_duration
from autoslim.core.files import short_path
from workers.search.model_line import describe_model
from workers.search.recommended import describe_recommended
from workers.search.summary import Summary
from workers.search.summary_rows import summary_rows


def show(summary: Summary, *, as_json: bool) -> None:
    sys.stdout.write((summary.to_json(indent=1) if as_json else render(summary)) + "\n")


def render(summary: Summary) -> str:
    """The table, a line for each budget, and where the rest is."""
    # A search whose budgets were all met by earlier searches runs no trial.
    states = ", ".join(f"{count} {state}" for state, count in summary.states.items() if count) or "no"
    place = _place(summary)
    lines = ["", f"Job {summary.job}: {states} trials", "", *columns(summary_rows(summary)), ""]
    lines += [paragraph(f"{model.label}: {describe_model(model, summary)}") for model in summary.models]
    lines += [paragraph(f"{label}: {summary.missed(label)}") for label in summary.missing]
    lines += [warning(f"{label}: {text}") for label, texts in summary.marked_forms.items() for text in texts]
    if recommended := describe_recommended(summary):
        lines.append(paragraph(recommended))
    lines += [
        "",
        *_hand_over(summary),
        paragraph(
            f"Reasons    {place}/report.html: why each model was chosen, its neighbours on the front, the random recipes",
            indent=11,
        ),
        f"Time       {format_duration(summary.cost.seconds)}",
        f"Cost       {summary.cost.describe()}",
        *([f"Spent      {summary.spending}"] if summary.spending else []),
        paragraph(f"Files      {place} (models/, trials.parquet, front.parquet, front.html, report.html)", indent=11),
        f"MLflow     {_mlflow(summary.tracking_uri)}",
    ]
    if not summary.logged:
        lines.append(f"           not everything could be logged; later: autoslim sync {shlex.quote(place)}")
    if summary.models:
        lines.append(load_line(short_path(summary.models[0].folder)))
    return "\n".join(lines)


def _hand_over(summary: Summary) -> list[str]:
    """How to get that model, where it was not handed over for a budget."""
    found = summary.within_noise
    if found is None or any(model.trial == found.trial for model in summary.models):
        return []
    return [f"Pick       autoslim pick {shlex.quote(_place(summary))} --flops {found.flops}"]


def _place(summary: Summary) -> str:
    """Where the user finds the output."""
    return summary.output_uri or short_path(summary.output)


def _mlflow(uri: str) -> str:
    """The address of a server, or the command that serves a database; with the interpreter, whose environment may not be active."""
    return (
        f"{shlex.quote(sys.executable)} -m mlflow ui --backend-store-uri {shlex.quote(uri)}" if uri.startswith("sqlite") else uri
    )
