"""The report of a finished search: the models, the random control, and the next commands."""

from __future__ import annotations

import shlex
import sys

from autoslim.cli.table import columns
from autoslim.core.budget import format_flops
from autoslim.core.duration import format_duration
from autoslim.core.recipe import title_of
from autoslim.core.result import BaseFacts
from autoslim.core.score import SCORES, Score
from autoslim.search import AgainstControl
from workers.search.summary import Summary


def show(summary: Summary, *, as_json: bool) -> None:
    sys.stdout.write((summary.to_json(indent=1) if as_json else render(summary)) + "\n")


def render(summary: Summary) -> str:
    score = SCORES[summary.score]
    # A search whose budgets were all met by earlier searches runs no trial.
    states = ", ".join(f"{count} {state}" for state, count in summary.states.items() if count) or "no"
    lines = ["", f"Job {summary.job}: {states} trials", "", *_table(summary), ""]
    for label, found in summary.reasons.items():
        lines.append(f"{label}: {found.sentence}")
        lines += [f"{' ' * len(label)}  {offer}" for offer in found.describe_neighbours(score)]
    knee = next((found.knee for found in summary.reasons.values()), None)
    if knee is not None:
        lines.append(f"the front bends most at trial {knee}")
    for label, control in summary.controls.items():
        lines.append(f"{label}: {_against(control, score)}")
    lines += [f"{model.label}: {model.latency.describe()}" for model in summary.models if model.latency is not None]
    lines += [f"{model.label}: {model.probe.describe()}" for model in summary.models if model.probe is not None]
    lines += summary.teachers
    for label in summary.missing:
        lines.append(f"{label}: no trial was completed within this budget")
    for cost in summary.shared:
        settings = ", ".join(f"{name} {value}" for name, value in cost.settings.items())
        which = f"{cost.method} ({settings})" if settings else cost.method
        lines.append(f"done once, for all trials: {which}, {cost.epochs:.3g} epochs, {cost.seconds:.2g} s")
    lines += [
        "",
        f"Time       {format_duration(summary.cost.seconds)}",
        f"Cost       {summary.cost.describe()}",
        f"Files      {summary.output} (models/, trials.parquet, front.parquet, front.html, report.html)",
        f"MLflow     {_mlflow(summary.tracking_uri)}",
    ]
    if not summary.logged:
        lines.append(f"           not everything could be logged; later: autoslim sync {shlex.quote(str(summary.output))}")
    if summary.models:
        lines.append(f"Load       {sys.executable} -c 'import autoslim; print(autoslim.load(\"{summary.models[0].folder}\"))'")
    return "\n".join(lines)


def _mlflow(uri: str) -> str:
    """The address of a server, or the command that serves a database; with the interpreter, whose environment may not be active."""
    return (
        f"{shlex.quote(sys.executable)} -m mlflow ui --backend-store-uri {shlex.quote(uri)}" if uri.startswith("sqlite") else uri
    )


def _table(summary: Summary) -> list[str]:
    score = SCORES[summary.score]
    rows = [("budget", "method", "FLOPs", "of budget", "params", "ms", f"validation {score.title}", f"test {score.title}")]
    timed = next((model.latency.timed for model in summary.models if model.latency is not None), None)
    dense_ms = "" if timed is None else f"{timed.dense_ms:.4g}"
    flops, dense = format_flops(summary.dense_flops), score.text(summary.dense_accuracy, 2)
    if summary.starts:
        rows += [("dense", label, *_dense_cells(summary, label, facts)) for label, facts in summary.starts.items()]
    else:
        rows.append(("dense", "", flops, "", "", dense_ms, dense, _dense_test(summary)))
    for model in summary.models:
        rows.append(
            (
                model.label,
                f"{title_of(model.method, model.model)} (trial {model.trial})",
                format_flops(model.flops or 0),
                f"{model.budget_share:.2%}",
                f"{(model.params or 0) / 1e6:.3g} M",
                "" if model.latency is None else f"{model.latency.timed.ms:.4g}",
                score.text(model.accuracy or 0.0, 2),
                score.text(model.test_accuracy, 2),
            )
        )
    if timed is None:
        rows = [row[:5] + row[6:] for row in rows]  # type: ignore[misc]
    return columns(rows)


def _dense_cells(summary: Summary, label: str, facts: BaseFacts) -> tuple[str, str, str, str, str, str]:
    """Of one of several starts; it was evaluated on the test images where a chosen model was made from it."""
    score = SCORES[summary.score]
    test = next((score.text(model.dense_test_accuracy, 2) for model in summary.models if model.model == label), "")
    return format_flops(facts.dense_flops), "", f"{facts.params / 1e6:.3g} M", "", score.text(facts.dense_accuracy, 2), test


def _dense_test(summary: Summary) -> str:
    return SCORES[summary.score].text(summary.models[0].dense_test_accuracy, 2) if summary.models else ""


def _against(found: AgainstControl, score: Score) -> str:
    control = found.control
    if found.chosen == control:
        return f"the random recipe (trial {control}) was itself the best; the search did not beat it"
    if found.margin == 0:
        return f"the search did not beat a random recipe at the same budget (trial {control}): equal validation {score.name}"
    return f"the search beat a random recipe at the same budget (trial {control}) by {score.difference(found.margin)}"
