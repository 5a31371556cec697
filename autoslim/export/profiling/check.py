"""What a finished model takes on the machine at hand, beside the dense one.

`python -m autoslim.export.profiling.check FOLDER DENSE --batch 1 --mode eager` runs as a process of its own; the last line is JSON.
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
from autoslim.methods.layers.adaptive_trunk import full
from autoslim.models import create_dense

_SECONDS = 6.0
_FEWEST_ROUNDS = 9
_TRIES = 3


def check(
    folder: Path, dense: Path, *, batch: int, mode: str, threads: int | None = None, limit_ms: float | None = None
) -> TimedReport:
    """The slimmed model in `folder` and the dense one in `dense` (timm's format) in turns, on generated images.

    Above `limit_ms` it is measured again, a few times, and the shortest counts: a machine that does something else is slower for a while.
    Where the tokens vary from image to image, every image takes as many as the caps allow.

    Raises:
        RequestError: for a mode that there is not.
    """
    if mode not in runners.BACKENDS:
        raise RequestError(f"--latency-mode is {mode!r}; allowed: {', '.join(SPEED_MODES)}")
    if threads is not None:
        torch.set_num_threads(threads)
    device, shape = pick_device(), load_config(folder).shape
    images = torch.randn(batch, 3, *shape.image_size)
    models = create_dense(ModelSpec(name=str(dense))).module.eval(), full(load(folder))
    runs = [runners.BACKENDS[mode](model, shape, device) for model in models]
    tries: list[TimedReport] = []
    while not tries or (limit_ms is not None and tries[-1].ms > limit_ms and len(tries) < _TRIES):
        tries.append(_raced([partial(run, images) for run in runs], device, mode=mode, batch=batch))
    return min(tries, key=lambda found: found.ms)


def _raced(runs: list[Run], device: torch.device, *, mode: str, batch: int) -> TimedReport:
    clock = clock_of(device.type, torch.get_num_threads())
    timings = time_interleaved(runs, seconds=_SECONDS, at_least=_FEWEST_ROUNDS, clock=clock)
    slow, fast = ([1000 * timing for timing in own] for own in timings)
    return TimedReport(
        hardware=hardware(),
        device=device.type,
        threads=torch.get_num_threads(),
        mode=mode,
        batch=batch,
        ms=lower_quartile(fast),
        median_ms=statistics.median(fast),
        dense_ms=lower_quartile(slow),
        rounds=len(fast),
    )


def check_in_subprocess(
    folder: Path, dense: Path, *, batch: int, mode: str, threads: int | None = None, limit_ms: float | None = None
) -> TimedReport:
    """As `check`. Raises JobError where it could not be measured."""
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
