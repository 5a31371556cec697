"""How fast the models that were handed over ran beside the dense one, for the front's page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from autoslim.core.run_folder import RunFolder
from autoslim.errors import AutoslimError
from autoslim.export.artifact import SpeedReport, Timing, load_config


def handed_over_speeds(output: str, labels: Iterable[str]) -> dict[str, SpeedReport]:
    """What the model folders of these budgets say; none of a folder that is not there, or was not measured."""
    speeds = {}
    for label in labels:
        try:
            speed = load_config(RunFolder(Path(output)).model(label)).speed
        except AutoslimError:
            # The page is drawn for searches whose folder was moved or tidied up, too.
            continue
        if speed is not None and speed.timings:
            speeds[label] = speed
    return speeds


def draw_speeds(speeds: Mapping[str, SpeedReport]) -> str:
    """A table, one row a race; nothing where no speed was measured."""
    if not speeds:
        return ""
    rows = "".join(_row(label, timing) for label, speed in speeds.items() for timing in speed.timings)
    where = "; ".join(sorted({f"{speed.hardware}, {speed.threads} threads" for speed in speeds.values()}))
    slow = [
        f"{label} ({timing.mode}, {timing.device})"
        for label, speed in speeds.items()
        for timing in speed.timings
        if _is_slow(timing)
    ]
    plainly = f"<p><b>Not faster than the dense model at batch 1:</b> {escape(', '.join(slow))}.</p>" if slow else ""
    heads = "".join(
        f"<th{'' if index < 2 else ' class=number'}>{name}</th>"
        for index, name in enumerate(
            ("budget", "way", "batch", "dense, ms", "slimmed, ms", "images/s", "times as fast (quartiles)")
        )
    )
    return f"""<h2>Speed of the models handed over</h2>
<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>
{plainly}<p>Medians of both models run in turns on {escape(where)}.</p>"""


def _is_slow(timing: Timing) -> bool:
    return timing.batch == 1 and timing.speedup <= 1


def _row(label: str, timing: Timing) -> str:
    numbers = (
        str(timing.batch),
        f"{timing.dense_ms:.3g}",
        f"{timing.slimmed_ms:.3g}",
        f"{1000 * timing.batch / timing.slimmed_ms:,.0f}",
        f"{timing.speedup:.2f} ({timing.low:.2f}-{timing.high:.2f})",
    )
    cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
    return f"<tr><td>{escape(label)}</td><td>{escape(timing.mode)}, {escape(timing.device)}</td>{cells}</tr>"
