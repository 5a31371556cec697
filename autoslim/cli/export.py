"""`autoslim export`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from autoslim.cli.evaluate import refuse_other_classes
from autoslim.cli.table import Cell, columns, styled, warning
from autoslim.core.job import DatasetSpec
from autoslim.errors import ExportError
from autoslim.export.artifact import FormReport, SpeedReport, Timing, load_config
from autoslim.report.export_forms import Exported, ExportRequest, export_forms


def show_export(folder: Path, spec: DatasetSpec, *, formats: str, seed: int, max_drop: float, speed: bool, as_json: bool) -> None:
    """Raises ExportError where none of the forms could be made."""
    from autoslim.data import prepare_dataset

    names = tuple(dict.fromkeys(name.strip() for name in formats.split(",")))
    request = ExportRequest(names=names, max_drop=max_drop, seed=seed, speed=speed)
    config = load_config(folder)
    with tempfile.TemporaryDirectory(prefix="autoslim-") as cache:
        # Images of features have no classes.
        dataset = prepare_dataset(spec.replace(labelled=bool(config.classes)), Path(cache), seed=seed)
        refuse_other_classes(spec, dataset, config)
        found = export_forms(folder, dataset, request)
    sys.stdout.write((found.to_json(indent=1) if as_json else render(found)) + "\n")
    refused = [f"{form.name}: {form.reason}" for form in found.forms if not form.file]
    if len(refused) == len(found.forms):
        raise ExportError(f"none of the forms could be made: {'; '.join(refused)}")


def render(found: Exported) -> str:
    judged = found.accuracy is not None
    rows: list[tuple[Cell, ...]] = [
        (
            "file",
            f"top-1 on {found.images} test images" if judged else "",
            "points below the weights" if judged else "",
            "ms at batch",
        )
    ]
    if found.accuracy is not None:
        rows.append(("model.safetensors", f"{found.accuracy:.2%}", "", ""))
    rows += [_row(form, found.speed) for form in found.forms if form.file]
    lines = columns(rows, header=True)
    lines += [warning(f"{form.file} {form.describe_loss()}") for form in found.forms if form.loses_too_much]
    lines += [f"{form.file}: {form.made}" for form in found.forms if form.made]
    lines += [f"not made: {form.name}, because {form.reason}" for form in found.forms if not form.file]
    if found.speed is not None:
        lines += [f"not measured: {name}, because {reason}" for name, reason in found.speed.left_out.items()]
    return "\n".join(lines)


def _row(form: FormReport, speed: SpeedReport | None) -> tuple[Cell, ...]:
    accuracy = "" if form.accuracy is None else f"{form.accuracy:.2%}"
    drop = "" if form.drop is None else f"{form.drop:.2f}"
    own = () if speed is None else tuple(timing for timing in speed.timings if timing.mode == form.name)
    times = ", ".join(_time(timing) for timing in own)
    return form.file, accuracy, styled(drop, "bold red") if form.loses_too_much else drop, times


def _time(timing: Timing) -> str:
    """`1: 4 (2.00 times as fast as dense)`."""
    doubt = "" if timing.is_reliable else f", unreliable: half of the rounds are from {timing.low:.2f} to {timing.high:.2f}"
    return f"{timing.batch}: {timing.slimmed_ms:.3g} ({timing.speedup:.2f} times as fast as dense{doubt})"
