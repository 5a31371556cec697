"""Latency at batch 1 and throughput at a large batch, of the dense and the slimmed model in turns.

`python -m autoslim.export.profiling.benchmark FOLDER DENSE IMAGES.npy --modes eager,compiled` runs in a process of its own, so that the
caller's threads and caches do not disturb the measurement. The last line of its output is a `SpeedReport` as JSON.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from autoslim.core.job import SPEED_MODES, ModelSpec
from autoslim.core.shape import ViTShape
from autoslim.core.speed import SpeedReport, Timing
from autoslim.errors import RequestError, first_line
from autoslim.export.artifact import load
from autoslim.export.profiling import runners
from autoslim.export.profiling.hardware import hardware
from autoslim.export.profiling.in_subprocess import run_in_subprocess
from autoslim.export.profiling.interleaved import ratio, time_interleaved
from autoslim.models import create_dense

LARGE = (64, 32, 16, 8)
"""Candidates for the large batch, the largest first."""

_LONGEST_BATCH = 2.0
"""Seconds that a large batch may take, as estimated from one image."""

_SECONDS = 3.0
"""Seconds for both models at one batch size in one mode."""


def measure(
    slimmed: nn.Module,
    dense: nn.Module,
    shape: ViTShape,
    images_B3HW: Tensor,
    *,
    modes: tuple[str, ...],
    batches: tuple[int, ...] = (),
    seconds: float = _SECONDS,
) -> SpeedReport:
    """Times both models on the CPU and, where there is one, on the GPU; `seconds` for each mode and batch size.

    `batches` are by default 1 and the largest of `LARGE` that the device is expected to compute in two seconds. A mode that fails is
    reported with its reason.

    Raises:
        RequestError: for an unknown mode.
    """
    if unknown := [mode for mode in modes if mode not in runners.BACKENDS]:
        raise RequestError(f"the speed mode {unknown[0]!r} is unknown; allowed: {', '.join(SPEED_MODES)}")
    timings: list[Timing] = []
    left_out: dict[str, str] = {}
    for device in _devices():
        try:
            sizes = batches or (1, large_batch(dense, shape, images_B3HW, device))
        except RuntimeError as error:
            # A device that cannot run the dense model eagerly has nothing to compare with.
            left_out[device.type] = first_line(error)
            continue
        for mode in modes:
            try:
                way = runners.BACKENDS[mode]
                # Both are ready before either is timed, because they run in turns.
                pair = way(dense, shape, device), way(slimmed, shape, device)
                for batch in sizes:
                    timings.append(_timing(mode, device, pair, batch_of(images_B3HW, batch), seconds))
            except Exception as error:  # noqa: BLE001 - compilers raise errors of any class; the other modes are still measured
                left_out[f"{mode} on {device.type}"] = first_line(error)
    return SpeedReport(hardware=hardware(), threads=torch.get_num_threads(), timings=tuple(timings), left_out=left_out)


def measure_in_subprocess(
    folder: Path, dense: Path, images_B3HW: Tensor, *, modes: tuple[str, ...], threads: int | None = None
) -> SpeedReport:
    """`measure` in a process of its own, for the slimmed model in `folder` and the dense one in `dense` (timm's format).

    Raises:
        JobError: when the process fails or takes too long, with the last line of its error output.
    """
    with tempfile.TemporaryDirectory(prefix="autoslim-speed-") as scratch:
        images = Path(scratch) / "images.npy"
        np.save(images, images_B3HW.numpy())
        arguments = [str(folder), str(dense), str(images), "--modes", ",".join(modes)]
        arguments += [] if threads is None else ["--threads", str(threads)]
        return SpeedReport.from_json(run_in_subprocess("autoslim.export.profiling.benchmark", arguments))


def _devices() -> Iterator[torch.device]:
    yield torch.device("cpu")
    if torch.cuda.is_available():
        yield torch.device("cuda")


def large_batch(dense: nn.Module, shape: ViTShape, images_B3HW: Tensor, device: torch.device) -> int:
    """The largest of `LARGE` that the device is expected to compute in two seconds."""
    run = runners.eager(dense, shape, device)
    # Three rounds are enough to choose between sizes that differ by a factor of two.
    (timings,) = time_interleaved([lambda: run(images_B3HW[:1])], seconds=0.0, at_least=3)
    return next((batch for batch in LARGE if batch * statistics.median(timings) <= _LONGEST_BATCH), LARGE[-1])


def batch_of(images_B3HW: Tensor, batch: int) -> Tensor:
    """`batch` images, some of them several times where there are fewer."""
    times = -(-batch // len(images_B3HW))
    return images_B3HW.repeat(times, 1, 1, 1)[:batch].contiguous()


def _timing(
    mode: str, device: torch.device, pair: tuple[runners.Runner, runners.Runner], images_B3HW: Tensor, seconds: float
) -> Timing:
    dense, slimmed = time_interleaved([lambda run=run: run(images_B3HW) for run in pair], seconds=seconds)  # type: ignore[misc]
    return timing_of(mode, device, len(images_B3HW), dense, slimmed)


def timing_of(mode: str, device: torch.device, batch: int, dense: list[float], slimmed: list[float]) -> Timing:
    """From the seconds of both models in the same rounds."""
    # The median of the rounds' ratios: what slows a whole round down does not change its ratio.
    middle, low, high = ratio(dense, slimmed)
    return Timing(
        mode=mode,
        device=device.type,
        batch=batch,
        dense_ms=1000 * statistics.median(dense),
        slimmed_ms=1000 * statistics.median(slimmed),
        speedup=middle,
        low=low,
        high=high,
        rounds=len(dense),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a slimmed model's")
    parser.add_argument("dense", type=Path, help="the dense model's, in timm's format")
    parser.add_argument("images", type=Path, help="normalised images (B, 3, height, width), a .npy file")
    parser.add_argument("--modes", default=",".join(SPEED_MODES))
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    # Compilers' warnings would hide the report.
    logging.disable(logging.WARNING)
    dense = create_dense(ModelSpec(name=str(arguments.dense)))
    images = torch.from_numpy(np.load(arguments.images, allow_pickle=False))
    modes = tuple(mode for mode in arguments.modes.split(",") if mode)
    report = measure(load(arguments.folder), dense.module.eval(), dense.shape, images, modes=modes)
    sys.stdout.write(report.to_json() + "\n")


if __name__ == "__main__":
    main()
