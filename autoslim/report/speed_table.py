"""The table of the page with the speed of the selected models and of the dense one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from autoslim.core.figures import format_figure
from autoslim.core.model_facts import ModelFacts
from autoslim.core.run_folder import RunFolder
from autoslim.core.speed import SpeedReport, Timing
from autoslim.errors import AutoslimError
from autoslim.report.text_table import Column, draw_text_table, numbers

_COLUMNS = (
    Column("Budget"),
    Column("Way"),
    *numbers("Batch", "Dense, ms", "Slimmed, ms", "Images/s", "Times as fast (quartiles)"),
)


def selected_speeds(output: str, labels: Iterable[str]) -> dict[str, SpeedReport]:
    """The speeds in the model folders of these budgets, without folders that are missing or were not measured."""
    speeds = {}
    for label in labels:
        try:
            facts = ModelFacts.read(RunFolder(Path(output)).model(label))
        except AutoslimError:
            # The page is also made for searches whose models another version has written.
            continue
        # Nor does every folder have its models still: one may have been moved or emptied.
        if facts is not None and facts.speed is not None and facts.speed.timings:
            speeds[label] = facts.speed
    return speeds


def draw_speeds(speeds: Mapping[str, SpeedReport]) -> str:
    """A table, one row a race; nothing where no speed was measured."""
    return _draw(speeds, _COLUMNS, "both models", "Medians of both models run in turns")


def draw_form_speeds(speeds: Mapping[str, SpeedReport]) -> str:
    """The same of the exported files, each by its own runtime."""
    columns = (_COLUMNS[0], Column("Exported file"), *_COLUMNS[2:])
    return _draw(speeds, columns, "the files", "Medians of the files and of the dense model in ONNX Runtime, run in turns")


def _draw(speeds: Mapping[str, SpeedReport], columns: Sequence[Column], what: str, how: str) -> str:
    if not speeds:
        return ""
    rows = [_row(label, timing) for label, speed in speeds.items() for timing in speed.timings]
    where = "; ".join(sorted({f"{speed.hardware}, {speed.threads} threads" for speed in speeds.values()}))
    slow = [
        f"{label} ({timing.mode}, {timing.device})"
        for label, speed in speeds.items()
        for timing in speed.timings
        if _is_slow(timing)
    ]
    plainly = f"<p><b>Not faster than the dense model at batch 1:</b> {escape(', '.join(slow))}.</p>" if slow else ""
    table = draw_text_table(f"Milliseconds a batch, {what} run in turns", columns, rows)
    # Of all models, so that what makes one of them unreliable is explained.
    every = SpeedReport(hardware="", threads=0, timings=tuple(timing for speed in speeds.values() for timing in speed.timings))
    return f"{table}\n{plainly}<p>{how} on {escape(where)}. {every.explain_speedups()}</p>"


def _is_slow(timing: Timing) -> bool:
    return timing.batch == 1 and timing.speedup <= 1


def _row(label: str, timing: Timing) -> list[str]:
    return [
        label,
        f"{timing.mode}, {timing.device}",
        str(timing.batch),
        format_figure(timing.dense_ms),
        format_figure(timing.slimmed_ms),
        f"{1000 * timing.batch / timing.slimmed_ms:,.0f}",
        timing.describe_speedup(),
    ]
