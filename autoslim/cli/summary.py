"""The report of a finished search: the models, the one that the numbers speak for, and where the rest is."""

from __future__ import annotations

import shlex
import sys

from autoslim.cli.load_line import load_line
from autoslim.cli.table import columns, warning
from autoslim.core.budget import format_flops
from autoslim.core.duration import format_duration
from autoslim.core.recipe import title_of
from autoslim.core.result import BaseFacts
from autoslim.core.score import SCORES
from autoslim.search import WithinNoise
from workers.search.model_line import describe_model
from workers.search.summary import Summary


def show(summary: Summary, *, as_json: bool) -> None:
    sys.stdout.write((summary.to_json(indent=1) if as_json else render(summary)) + "\n")


def render(summary: Summary) -> str:
    """The table, a line for each budget, and where the rest is."""
    # A search whose budgets were all met by earlier searches runs no trial.
    states = ", ".join(f"{count} {state}" for state, count in summary.states.items() if count) or "no"
    place = summary.output_uri or summary.output
    lines = ["", f"Job {summary.job}: {states} trials", "", *_table(summary), ""]
    lines += [f"{model.label}: {describe_model(model, summary)}" for model in summary.models]
    lines += [f"{label}: {summary.missed(label)}" for label in summary.missing]
    lines += [warning(f"{label}: {text}") for label, texts in summary.marked_forms.items() for text in texts]
    if summary.within_noise is not None:
        lines.append(_recommended(summary, summary.within_noise))
    lines += [
        "",
        f"Reasons    {place}/report.html: why each model was chosen, its neighbours on the front, the random recipes",
        f"Time       {format_duration(summary.cost.seconds)}",
        f"Cost       {summary.cost.describe()}",
        *([f"Spent      {summary.spending}"] if summary.spending else []),
        f"Files      {place} (models/, trials.parquet, front.parquet, front.html, report.html)",
        f"MLflow     {_mlflow(summary.tracking_uri)}",
    ]
    if not summary.logged:
        lines.append(f"           not everything could be logged; later: autoslim sync {shlex.quote(place)}")
    if summary.models:
        lines.append(load_line(summary.models[0].folder))
    return "\n".join(lines)


def _recommended(summary: Summary, found: WithinNoise) -> str:
    """Which model the numbers speak for."""
    label = next((model.label for model in summary.models if model.trial == found.trial), None)
    where = f"trial {found.trial} ({found.title})" if label is None else f"{label}, trial {found.trial} ({found.title})"
    if found.trial == found.best:
        return f"The numbers speak for {where}: every cheaper trial is measurably less accurate than this best one"
    hand_over = (
        ""
        if label
        else f"; autoslim pick {shlex.quote(summary.output_uri or summary.output)} --flops {found.flops} hands it over"
    )
    interval, images = found.interval, found.images
    return (
        f"The numbers speak for {where}: at {format_flops(found.flops)} the cheapest within the noise of the best, trial {found.best} "
        f"({interval.value:.2%}, {interval.low:.1%} to {interval.high:.1%} on {images:,} validation images){hand_over}"
    )


def _mlflow(uri: str) -> str:
    """The address of a server, or the command that serves a database; with the interpreter, whose environment may not be active."""
    return (
        f"{shlex.quote(sys.executable)} -m mlflow ui --backend-store-uri {shlex.quote(uri)}" if uri.startswith("sqlite") else uri
    )


def _table(summary: Summary) -> list[str]:
    score, validation, test = SCORES[summary.score], summary.images.get("validation"), summary.images.get("test")
    heads = (f"validation {score.title}{score.interval_unit(validation)}", f"test {score.title}{score.interval_unit(test)}")
    rows = [("budget", "method", "FLOPs", "of budget", "params", "ms", *heads)]
    timed = next((model.latency.timed for model in summary.models if model.latency is not None), None)
    dense_ms = "" if timed is None else f"{timed.dense_ms:.4g}"
    flops, dense = format_flops(summary.dense_flops), score.with_interval(summary.dense_accuracy, validation)
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
                "" if model.label == summary.goal else f"{model.budget_share:.2%}",
                f"{(model.params or 0) / 1e6:.3g} M",
                "" if model.latency is None else f"{model.latency.timed.ms:.4g}",
                score.with_interval(model.accuracy or 0.0, validation),
                score.with_interval(model.test_accuracy, test),
            )
        )
    if timed is None:
        rows = [row[:5] + row[6:] for row in rows]  # type: ignore[misc]
    return columns(rows)


def _dense_cells(summary: Summary, label: str, facts: BaseFacts) -> tuple[str, str, str, str, str, str]:
    """Of one of several starts; it was evaluated on the test images where a chosen model was made from it."""
    score, validation, images = SCORES[summary.score], summary.images.get("validation"), summary.images.get("test")
    test = next((score.with_interval(one.dense_test_accuracy, images) for one in summary.models if one.model == label), "")
    accuracy = score.with_interval(facts.dense_accuracy, validation)
    return format_flops(facts.dense_flops), "", f"{facts.params / 1e6:.3g} M", "", accuracy, test


def _dense_test(summary: Summary) -> str:
    images = summary.images.get("test")
    return SCORES[summary.score].with_interval(summary.models[0].dense_test_accuracy, images) if summary.models else ""
