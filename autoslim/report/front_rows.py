"""The trials of a search as a table for people: what `autoslim front` prints and a notebook shows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from autoslim.core.budget import format_flops
from autoslim.core.figures import format_millions
from autoslim.core.model_facts import ModelFacts
from autoslim.core.recipe import title_of
from autoslim.core.result import TrialResult
from autoslim.core.run_folder import RunFolder
from autoslim.store import StoredJob

_HEADS = ("trial", "method", "FLOPs", "of dense", "params")


def front_rows(
    job: StoredJob, trials: Iterable[TrialResult], *, folder: Path | None, validation_images: int | None
) -> list[tuple[str, ...]]:
    """The heads, the dense model where there is one, and a row a trial.

    Accuracies have their intervals where the number of validation images is known. Models that were handed over into `folder` say how
    fast they are, if any was timed.
    """
    base, score = job.base, job.job.dataset.score
    images = validation_images if score.is_share else None
    chosen: dict[int, list[str]] = {}
    for label, number in job.chosen.items():
        chosen.setdefault(number, []).append(label)
    faster = {} if folder is None else _speeds(job, RunFolder(folder))
    rows: list[tuple[str, ...]] = [
        (*_HEADS, f"validation {score.title}{score.interval_unit(images)}", "model of", "times as fast")
    ]
    if base is not None and not base.starts:
        accuracy = score.with_interval(base.dense_accuracy, images)
        rows.append(("", "dense", format_flops(base.dense_flops), "100.0%", _millions(base.params), accuracy, "", ""))
    for trial in trials:
        rows.append(
            (
                str(trial.number),
                title_of(trial.recipe.method, trial.recipe.model) + ("" if trial.state == "complete" else f" ({trial.state})"),
                "" if trial.flops is None else format_flops(trial.flops),
                "" if base is None or trial.flops is None else f"{trial.flops / base.dense_flops:.1%}",
                _millions(trial.params),
                score.with_interval(trial.accuracy, images),
                ", ".join(chosen.get(trial.number, ())),
                faster.get(trial.number, ""),
            )
        )
    return rows if faster else [row[:-1] for row in rows]


def _speeds(job: StoredJob, folder: RunFolder) -> dict[int, str]:
    """Of delivered models that were timed, by their trials: on one image in the fastest way, and as the fastest file."""
    found: dict[int, str] = {}
    for label, number in job.chosen.items():
        facts = None if number in found else ModelFacts.read(folder.model(label))
        if facts is None:
            continue
        fastest = [report.fastest for report in (facts.speed, facts.form_speed) if report is not None]
        text = ", ".join(
            f"{timing.speedup:.2f} ({timing.mode}{'' if timing.is_reliable else ', unreliable'})" for timing in fastest if timing
        )
        if text:
            found[number] = text
    return found


def _millions(params: int | None) -> str:
    return "" if params is None else format_millions(params)
