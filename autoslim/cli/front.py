"""`autoslim front`."""

from __future__ import annotations

import csv
import json
import sys
from typing import Any

from autoslim.cli.table import columns
from autoslim.core.budget import format_flops
from autoslim.core.recipe import title_of
from autoslim.core.result import TrialResult
from autoslim.core.run_folder import RunFolder
from autoslim.errors import RequestError
from autoslim.export.artifact import load_config


def show_front(folder: str, *, all_trials: bool, as_json: bool, as_csv: bool) -> None:
    from autoslim.api.front import Front

    if as_json and as_csv:
        raise RequestError("--json and --csv exclude each other")
    front = Front.open(folder)
    if as_json or as_csv:
        _write_rows(front.to_rows(all_trials=all_trials), as_csv=as_csv)
        return
    sys.stdout.write("\n".join(render(front, list(front.trials) if all_trials else list(front))) + "\n")


def render(front: Any, trials: list[TrialResult]) -> list[str]:
    """Lines; accuracies have their intervals where the number of validation images is known, and delivered models their speed."""
    base, score = front.job.base, front.score
    images = front.validation_images if score.is_share else None
    several = bool(base is not None and base.starts)
    chosen: dict[int, list[str]] = {}
    for label, number in front.job.chosen.items():
        chosen.setdefault(number, []).append(label)
    faster = _speeds(front)
    head = (
        "trial",
        "method",
        "FLOPs",
        "of dense",
        "params",
        f"validation {score.title}{score.interval_unit(images)}",
        "model of",
        "times as fast",
    )
    rows: list[tuple[str, ...]] = [head]
    if base is not None and not several:
        rows.append(
            (
                "",
                "dense",
                format_flops(base.dense_flops),
                "100.0%",
                _millions(base.params),
                score.with_interval(base.dense_accuracy, images),
                "",
                "",
            )
        )
    for trial in trials:
        share = "" if base is None or trial.flops is None else f"{trial.flops / base.dense_flops:.1%}"
        rows.append(
            (
                str(trial.number),
                title_of(trial.recipe.method, trial.recipe.model) + ("" if trial.state == "complete" else f" ({trial.state})"),
                "" if trial.flops is None else format_flops(trial.flops),
                share,
                _millions(trial.params),
                score.with_interval(trial.accuracy, images),
                ", ".join(chosen.get(trial.number, ())),
                faster.get(trial.number, ""),
            )
        )
    return columns(rows if faster else [row[:-1] for row in rows], header=True)


def _speeds(front: Any) -> dict[int, str]:
    """Of delivered models that were timed, by their trials: on one image in the fastest way, and as the fastest file."""
    found: dict[int, str] = {}
    for label, number in front.job.chosen.items() if front.folder is not None else ():
        folder = RunFolder(front.folder).model(label)
        if number in found or not (folder / "config.json").is_file():
            continue
        config = load_config(folder)
        fastest = [report.fastest for report in (config.speed, config.form_speed) if report is not None]
        text = ", ".join(
            f"{timing.speedup:.2f} ({timing.mode}{'' if timing.is_reliable else ', unreliable'})" for timing in fastest if timing
        )
        if text:
            found[number] = text
    return found


def _millions(params: int | None) -> str:
    return "" if params is None else f"{params / 1e6:.3g} M"


def _write_rows(rows: list[dict[str, Any]], *, as_csv: bool) -> None:
    if not as_csv:
        sys.stdout.write(json.dumps(rows) + "\n")
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
