"""The summary's models as a table: what the command line prints and a notebook shows."""

from __future__ import annotations

from autoslim.core.budget import format_flops
from autoslim.core.figures import format_millions
from autoslim.core.recipe import title_of
from autoslim.core.result import BaseFacts
from autoslim.core.score import SCORES
from workers.search.summary import Summary


def summary_rows(summary: Summary) -> list[tuple[str, ...]]:
    """The heads, the dense model or each of several starts, and a row a model; milliseconds where a latency limit had them measured."""
    score, validation, test = SCORES[summary.score], summary.images.get("validation"), summary.images.get("test")
    heads = (f"validation {score.title}{score.interval_unit(validation)}", f"test {score.title}{score.interval_unit(test)}")
    rows: list[tuple[str, ...]] = [("budget", "method", "FLOPs", "of budget", "params", "ms", *heads)]
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
                format_millions(model.params or 0),
                "" if model.latency is None else f"{model.latency.timed.ms:.4g}",
                score.with_interval(model.accuracy or 0.0, validation),
                score.with_interval(model.test_accuracy, test),
            )
        )
    return rows if timed is not None else [row[:5] + row[6:] for row in rows]


def _dense_cells(summary: Summary, label: str, facts: BaseFacts) -> tuple[str, str, str, str, str, str]:
    """Of one of several starts; it was evaluated on the test images where a chosen model was made from it."""
    score, validation, images = SCORES[summary.score], summary.images.get("validation"), summary.images.get("test")
    test = next((score.with_interval(one.dense_test_accuracy, images) for one in summary.models if one.model == label), "")
    accuracy = score.with_interval(facts.dense_accuracy, validation)
    return format_flops(facts.dense_flops), "", format_millions(facts.params), "", accuracy, test


def _dense_test(summary: Summary) -> str:
    images = summary.images.get("test")
    return SCORES[summary.score].with_interval(summary.models[0].dense_test_accuracy, images) if summary.models else ""
