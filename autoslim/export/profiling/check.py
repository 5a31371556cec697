"""Measures the latency of a finished model on this machine, beside the dense model's.

`python -m autoslim.export.profiling.check FOLDER DENSE --batch 1 --mode eager` runs in a process of its own; its last line is JSON.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
from functools import partial
from pathlib import Path

import torch

from autoslim.core.job import SPEED_MODES, ModelSpec
from autoslim.errors import RequestError
from autoslim.export.artifact import TimedReport, load, load_config
from autoslim.export.profiling import runners
from autoslim.export.profiling.hardware import hardware, pick_device
from autoslim.export.profiling.in_subprocess import run_in_subprocess
from autoslim.export.profiling.interleaved import Run, clock_of, lower_quartile, time_interleaved
from autoslim.methods.layers.adaptive_trunk import open_thresholds
from autoslim.models import create_dense

_SECONDS = 6.0
_FEWEST_ROUNDS = 9
"""Seconds of one measurement, and the rounds that it takes at least, however slow the models are."""

_TRIES = 3
"""Measurements before a model above the limit is given up."""


def check(
    folder: Path, dense: Path, *, batch: int, mode: str, threads: int | None = None, limit_ms: float | None = None
) -> TimedReport:
    """Times the slimmed model in `folder` and the dense one in `dense` (timm's format) in turns, on random images.

    Above `limit_ms` the measurement is repeated up to `_TRIES` times and the shortest counts: other work on the machine makes it
    longer, never shorter. A model with adaptive counts runs every image at its caps.

    Raises:
        RequestError: for an unknown mode.
    """
    if mode not in runners.BACKENDS:
        raise RequestError(f"--latency-mode is {mode!r}; allowed: {', '.join(SPEED_MODES)}")
    if threads is not None:
        torch.set_num_threads(threads)
    device, shape = pick_device(), load_config(folder).shape
    images = torch.randn(batch, 3, *shape.image_size)
    # At its caps an adaptive model takes longest: the time then holds for every image.
    models = create_dense(ModelSpec(name=str(dense))).module.eval(), open_thresholds(load(folder))
    runs = [runners.BACKENDS[mode](model, shape, device) for model in models]
    tries: list[TimedReport] = []
    while not tries or (limit_ms is not None and tries[-1].ms > limit_ms and len(tries) < _TRIES):
        tries.append(_timed_pair([partial(run, images) for run in runs], device, mode=mode, batch=batch))
    return min(tries, key=lambda found: found.ms)


def _timed_pair(runs: list[Run], device: torch.device, *, mode: str, batch: int) -> TimedReport:
    clock = clock_of(device.type, torch.get_num_threads())
    timings = time_interleaved(runs, seconds=_SECONDS, at_least=_FEWEST_ROUNDS, clock=clock)
    slow, fast = ([1000 * timing for timing in own] for own in timings)
    return TimedReport(
        hardware=hardware(),
        device=device.type,
        threads=torch.get_num_threads(),
        mode=mode,
        batch=batch,
        # The same quartile as in the latency table, so that prediction and measurement can be compared.
        ms=lower_quartile(fast),
        median_ms=statistics.median(fast),
        dense_ms=lower_quartile(slow),
        rounds=len(fast),
    )


def check_in_subprocess(
    folder: Path, dense: Path, *, batch: int, mode: str, threads: int | None = None, limit_ms: float | None = None
) -> TimedReport:
    """`check` in a process of its own. Raises JobError when the measurement fails."""
    arguments = [str(folder), str(dense), "--batch", str(batch), "--mode", mode]
    arguments += [] if threads is None else ["--threads", str(threads)]
    arguments += [] if limit_ms is None else ["--limit-ms", repr(limit_ms)]
    return TimedReport.from_json(run_in_subprocess("autoslim.export.profiling.check", arguments))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a slimmed model's")
    parser.add_argument("dense", type=Path, help="the dense model's, in timm's format")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--mode", default="eager")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--limit-ms", type=float)
    arguments = parser.parse_args()
    # Compilers' warnings would hide the report.
    logging.disable(logging.WARNING)
    report = check(
        arguments.folder,
        arguments.dense,
        batch=arguments.batch,
        mode=arguments.mode,
        threads=arguments.threads,
        limit_ms=arguments.limit_ms,
    )
    sys.stdout.write(report.to_json() + "\n")


if __name__ == "__main__":
    main()
