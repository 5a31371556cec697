"""`autoslim export`."""

from __future__ import annotations

import sys
from pathlib import Path

from autoslim.cli.evaluate import refuse_other_classes, tell
from autoslim.cli.table import Cell, columns, paragraph, styled, warning
from autoslim.core.figures import format_figure
from autoslim.core.job import DatasetSpec
from autoslim.core.score import ACCURACY
from autoslim.core.speed import Timing
from autoslim.errors import ExportError
from autoslim.export.artifact import FormReport, load_config
from autoslim.report.export_forms import Exported, ExportRequest, export_forms


def show_export(folder: Path, spec: DatasetSpec, *, formats: str, seed: int, max_drop: float, speed: bool, as_json: bool) -> None:
    """Raises ExportError where none of the forms could be made."""
    from autoslim.data import prepare_dataset
    from autoslim.data.scratch_folder import scratch_folder

    names = tuple(dict.fromkeys(name.strip() for name in formats.split(",")))
    request = ExportRequest(names=names, max_drop=max_drop, seed=seed, speed=speed)
    config = load_config(folder)
    with scratch_folder() as cache:
        # Images of features have no classes.
        dataset = prepare_dataset(spec.replace(labelled=bool(config.classes)), cache, seed=seed, tell=tell)
        refuse_other_classes(spec, dataset, config)
        found = export_forms(folder, dataset, request)
    sys.stdout.write((found.to_json(indent=1) if as_json else render(found)) + "\n")
    refused = [f"{form.name}: {form.reason}" for form in found.forms if not form.file]
    if len(refused) == len(found.forms):
        raise ExportError(f"none of the forms could be made: {'; '.join(refused)}")


def render(found: Exported) -> str:
    judged, timings = found.accuracy is not None, () if found.speed is None else found.speed.timings
    batches = sorted({timing.batch for timing in timings})
    rows: list[tuple[Cell, ...]] = [
        (
            "file",
            f"top-1 on {found.images:,} test images{ACCURACY.interval_unit(found.images)}" if judged else "",
            "points below the weights" if judged else "",
            *(f"ms at batch {batch} (times as fast as dense)" for batch in batches),
        )
    ]
    if found.accuracy is not None:
        rows.append(("model.safetensors", ACCURACY.with_interval(found.accuracy, found.images), "", *("" for _ in batches)))
    rows += [_row(form, found, batches) for form in found.forms if form.file]
    lines = columns(rows, header=True)
    lines += [warning(f"{form.file} {form.describe_loss()}") for form in found.forms if form.loses_too_much]
    remarks = [f"{form.file}: {form.made}" for form in found.forms if form.made]
    remarks += [f"not made: {form.name}, because {form.reason}" for form in found.forms if not form.file]
    if found.speed is not None:
        remarks += [f"not measured: {name}, because {reason}" for name, reason in found.speed.left_out.items()]
    if not all(timing.is_reliable for timing in timings):
        remarks.append(
            "unreliable: the rounds of the measurement are far apart, as on a busy machine; README.md has their quartiles"
        )
    return "\n".join([*lines, *map(paragraph, remarks)])


def _row(form: FormReport, found: Exported, batches: list[int]) -> tuple[Cell, ...]:
    accuracy, speed = ACCURACY.with_interval(form.accuracy, found.images), found.speed
    drop = "" if form.drop is None else f"{form.drop:.2f}"
    own = {} if speed is None else {timing.batch: _time(timing) for timing in speed.timings if timing.mode == form.name}
    times = (own.get(batch, "") for batch in batches)
    return form.file, accuracy, styled(drop, "bold red") if form.loses_too_much else drop, *times


def _time(timing: Timing) -> str:
    """`4 (2.00)`."""
    return f"{format_figure(timing.slimmed_ms)} ({timing.speedup:.2f}{'' if timing.is_reliable else ', unreliable'})"
