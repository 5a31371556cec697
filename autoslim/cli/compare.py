"""`autoslim compare`."""

from __future__ import annotations

import sys
from pathlib import Path

from autoslim.cli.evaluate import check_split, tell
from autoslim.cli.table import columns, paragraph
from autoslim.core.budget import format_flops
from autoslim.core.figures import format_figure, format_millions
from autoslim.core.interval import wilson
from autoslim.core.job import DatasetSpec
from autoslim.training.comparison import ComparedModel, Comparison

_SHOWN = 10
"""Classes and images that are listed; `--json` has them all."""


def show_comparison(first: Path, second: Path, spec: DatasetSpec, *, split: str, seed: int, speed: bool, as_json: bool) -> None:
    from autoslim.data import prepare_dataset
    from autoslim.data.scratch_folder import scratch_folder
    from autoslim.training.compared_speed import compare_speed
    from autoslim.training.comparison import compare_folders
    from autoslim.training.threads import idle_threads

    check_split(split)
    with scratch_folder() as cache:
        dataset = prepare_dataset(spec, cache, seed=seed, tell=tell)
        with idle_threads(tell):
            found = compare_folders(first, second, dataset, split)
            if speed:
                found = found.replace(speed=compare_speed(first, second, dataset, split))
    sys.stdout.write((found.to_json(indent=1) if as_json else render(found, split)) + "\n")


def render(found: Comparison, split: str) -> str:
    head = ("", "model", "FLOPs", "params", f"top-1 on {found.images:,} {split} images, % (95 %)", "ms an image")
    times = ("", "") if found.speed is None else (format_figure(found.speed.first_ms), format_figure(found.speed.second_ms))
    rows: list[tuple[str, ...]] = [head, (*_row("A", found.first), times[0]), (*_row("B", found.second), times[1])]
    if found.speed is None:
        rows = [row[:-1] for row in rows]
    significant = not found.difference.low <= 0 <= found.difference.high
    told = [
        f"A less B: {found.difference.points()} points, paired at 95 %"
        + ("" if significant else ": these images do not tell the models apart"),
        f"{found.first_alone:,} images are right with A alone, {found.second_alone:,} with B alone; "
        f"{len(found.changed)} have different answers",
        *([] if found.speed is None else [found.speed.describe()]),
    ]
    lines = [*columns(rows, header=True), "", *map(paragraph, told)]
    if found.classes:
        table: list[tuple[str, ...]] = [("class", "images", "A, % (95 %)", "B, % (95 %)")]
        for row in found.classes[:_SHOWN]:
            shares = (wilson(share, row.images).percent() for share in (row.first, row.second))
            table.append((row.name, f"{row.images:,}", *shares))
        lines += ["", *columns(table, header=True), *_more(len(found.classes), "classes")]
    if found.changed:
        table = [("image", "class", "A", "B"), *((str(place), *names) for place, *names in found.changed[:_SHOWN])]
        lines += ["", *columns(table, header=True), *_more(len(found.changed), "images")]
    return "\n".join(lines)


def _row(letter: str, model: ComparedModel) -> tuple[str, ...]:
    flops = "" if model.flops is None else format_flops(model.flops)
    return letter, model.folder, flops, format_millions(model.params), model.accuracy.percent()


def _more(count: int, what: str) -> list[str]:
    return [f"and {count - _SHOWN} more {what}; --json has them all"] if count > _SHOWN else []
