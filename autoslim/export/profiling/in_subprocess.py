"""Measurements in a process of their own, so that the caller's threads and caches do not disturb them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from autoslim.core.captured_run import run_captured
from autoslim.core.files import write_atomically
from autoslim.core.record import digest_of
from autoslim.cost import LatencyRequest, LatencyTable
from autoslim.errors import JobError
from autoslim.export.profiling.hardware import hardware

MINUTES = 30
"""Time limit of such a process."""


def run_in_subprocess(module: str, arguments: list[str]) -> str:
    """The last line that `python -m module` prints.

    Raises:
        JobError: when the process fails or takes more than `MINUTES`, with the last line of its error output.
    """
    try:
        run = run_captured([sys.executable, "-m", module, *arguments], timeout=60 * MINUTES)
    except subprocess.TimeoutExpired:
        raise JobError(f"the measurement took more than {MINUTES} minutes") from None
    last = run.stdout.strip().splitlines()[-1:]
    if run.returncode != 0 or not last:
        errors = run.stderr.strip().splitlines()[-1:]
        raise JobError(f"its process ended with {run.returncode}: {errors[0] if errors else 'no error output'}")
    return last[0]


def measure_table_in_subprocess(
    request: LatencyRequest, known: LatencyTable | None = None, *, threads: int | None = None
) -> LatencyTable:
    """`profile_parts.measure_table` in a process of its own. Raises JobError when the measurement fails."""
    with tempfile.TemporaryDirectory(prefix="autoslim-latency-") as scratch:
        path = Path(scratch) / "request.json"
        path.write_text(request.to_json())
        arguments = [str(path)] + ([] if threads is None else ["--threads", str(threads)])
        if known is not None:
            (Path(scratch) / "known.json").write_text(known.to_json())
            arguments += ["--known", str(Path(scratch) / "known.json")]
        try:
            return LatencyTable.from_json(run_in_subprocess("autoslim.export.profiling.profile_parts", arguments))
        except JobError as error:
            raise JobError(f"the latency could not be measured: {error}") from error


LATENCY_TABLES = "latency-"
"""What the names of the files of `kept_table` begin with."""


def kept_table(
    folder: Path, request: LatencyRequest, measure: Callable[[LatencyRequest], LatencyTable], *, threads: int | None
) -> LatencyTable:
    """The table for `request`, measured once per request, machine, number of threads and torch version; kept in `folder` as JSON."""
    # A latency depends on each of these: a table that was measured under others would be wrong.
    key = {"request": request.to_dict(), "hardware": hardware(), "threads": threads, "torch": torch.__version__}
    path = folder / f"{LATENCY_TABLES}{digest_of(key)}.json"
    if path.is_file():
        return LatencyTable.from_json(path.read_text())
    table = measure(request)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, table.to_json(indent=1))
    return table
