"""Images a second of autoslim's loader, from decoded images and decoding, against timm's own with as many worker processes.

    python benchmarks/loader_speed.py --output runs/loader-speed [--sides 32,224,384] [--cores 1,2] [--seconds 60] [--images 512]

A process for each side and number of cores, which is bound to them, reads whole epochs with all loaders in turns: `light` beside timm's
random resized crop and flip, `strong` beside timm's RandAugment, colour jitter and erasing. Where there is a GPU, batches end on it. timm
always decodes.

These processes run one after the other, between which a machine's speed drifts. So each loader's gain from more cores is measured by
itself, from the first number of --cores to the last, beside what the machine gives processes that share nothing (`loader_scaling`).
Results in --output are reused, unless they are of other settings; an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bound_reader import bound_to
from loader_scaling import Ratio, Scaling, measure_scaling
from measured_loaders import AUGMENTATIONS, BATCH, COMPARED, LOADERS, epoch_reader, image_folder, images_of

from autoslim.core.files import replacing_file
from autoslim.core.record import Record
from autoslim.core.user_cache import FOLDER
from autoslim.export.profiling.hardware import hardware
from autoslim.export.profiling.interleaved import ratio, time_interleaved
from autoslim.training.device import pick_device

AIMS = {"cache": 2.0, "decoding": 0.95}
"""Times timm's images a second, with `light` at 224 pixels."""
SCALING = 1.8
"""Times as fast on two cores as on one, with the same."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell(Record):
    """One loader at one side and number of cores: images a second, and how many times timm's with its quartiles."""

    side: int
    cores: int
    augmentation: str
    loader: str
    speed: float
    times: float
    low: float
    high: float


def measure(output: Path, side: int, cores: int, count: int, seconds: float) -> list[Cell]:
    """In this process, which is bound to as many `cores`."""
    source = image_folder(output, side, count)
    # A last batch that is not full is left out.
    images = count // BATCH * BATCH
    cells = []
    for augmentation in AUGMENTATIONS:
        runs = [epoch_reader(source, side, augmentation, loader, cores=cores) for loader in LOADERS]
        timings = dict(zip(LOADERS, time_interleaved(runs, seconds=seconds), strict=True))
        for loader, own in timings.items():
            times, low, high = ratio(timings["timm"], own)
            speed = images / statistics.median(own)
            cells.append(
                Cell(
                    side=side, cores=cores, augmentation=augmentation, loader=loader, speed=speed, times=times, low=low, high=high
                )
            )
    return cells


def table(cells: Sequence[Cell], scalings: Sequence[Scaling]) -> str:
    """A line for each side, augmentation and loader: images a second by cores, the gain from the last ones and its ceiling; and the aims
    behind it."""
    cores = sorted({cell.cores for cell in cells})
    found = {(cell.side, cell.augmentation, cell.loader, cell.cores): cell for cell in cells}
    gains = {(one.side, one.augmentation, one.loader): one for one in scalings}
    speeds = "".join(f" {count} cores, images/s |" for count in cores)
    lines = [f"| pixels | augmentation | loader |{speeds} scaling | ceiling |", "|---" * (5 + len(cores)) + "|"]
    for row in dict.fromkeys(key[:3] for key in found):
        own = " | ".join(_shown(found.get((*row, count))) for count in cores)
        scaling = f"{_spread(gains[row].gain)} | {_spread(gains[row].ceiling)}" if row in gains else " | "
        lines.append(f"| {row[0]} | {row[1]} | {row[2]} | {own} | {scaling} |")
    return "\n".join([*lines, "", *_judged(found, cores, gains)])


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return ""
    times = "" if cell.loader == "timm" else f", {_spread((cell.times, cell.low, cell.high))}"
    return f"{cell.speed:.0f}{times}"


def _spread(quartiles: Ratio) -> str:
    middle, low, high = quartiles
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def _judged(
    found: dict[tuple[int, str, str, int], Cell], cores: list[int], gains: dict[tuple[int, str, str], Scaling]
) -> list[str]:
    lines = []
    for name, aim in AIMS.items():
        own = [found[key] for count in cores if (key := (224, "light", name, count)) in found]
        lines += [f"{name}, {cell.cores} cores: {cell.times:.2f} times timm's, {_met(cell.times, aim)}" for cell in own]
        scaling = gains.get((224, "light", name))
        if scaling is not None and (scaling.few, scaling.many) == (1, 2):
            lines.append(
                f"{name}: {_spread(scaling.gain)} times as fast on 2 cores as on 1, {_met(scaling.gain[0], SCALING)}; two processes that "
                f"share nothing are {_spread(scaling.ceiling)} times as fast as one, the ceiling"
            )
    return lines


def _met(value: float, aim: float) -> str:
    return f"the aim of {aim} is {'met' if value >= aim else 'missed'}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """What is measured at one side, and kept in `output`; `images` are those of an epoch."""

    output: Path
    side: int
    images: int
    seconds: float

    def cells(self, cores: Sequence[int]) -> list[Cell]:
        path = self._path(str(len(cores)))
        if not path.is_file():
            _say(f"{self.side} pixels, {len(cores)} cores")
            images = ["--sides", str(self.side), "--images", str(self.images), "--seconds", str(self.seconds)]
            command = [sys.executable, __file__, "--output", str(self.output), *images, "--cores", str(len(cores)), "--measure"]
            environment = {**os.environ, "OMP_NUM_THREADS": str(len(cores))}
            with replacing_file(path) as partial, bound_to(cores):
                subprocess.run([*command, str(partial)], check=True, env=environment)
        return [Cell.from_json(line) for line in path.read_text().splitlines()]

    def scalings(self, cores: Sequence[int], few: int) -> list[Scaling]:
        path = self._path(f"{few}-to-{len(cores)}")
        if not path.is_file():
            _say(f"{self.side} pixels, from {few} to {len(cores)} cores")
            open_reader = functools.partial(epoch_reader, image_folder(self.output, self.side, self.images), self.side)
            readings = itertools.product(AUGMENTATIONS, LOADERS)
            found = measure_scaling(open_reader, readings, side=self.side, cores=cores, few=few, seconds=self.seconds)
            with replacing_file(path) as partial:
                partial.write_text("".join(scaling.to_json() + "\n" for scaling in found))
        return [Scaling.from_json(line) for line in path.read_text().splitlines()]

    def _path(self, cores: str) -> Path:
        return self.output / f"{self.side}-{cores}-{self.images}-{self.seconds:g}-{COMPARED}.jsonl"


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sides", default="32,224,384")
    parser.add_argument("--cores", default="1,2")
    parser.add_argument("--seconds", type=float, default=60.0, help="of one measurement; at least five rounds")
    parser.add_argument("--images", type=int, help="of an epoch; by default as many as take about as long at each side")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sides, counts = (sorted({int(part) for part in text.split(",")}) for text in (arguments.sides, arguments.cores))
    if arguments.measure is not None:
        cells = measure(arguments.output, sides[0], counts[0], arguments.images, arguments.seconds)
        arguments.measure.write_text("".join(cell.to_json() + "\n" for cell in cells))
        return
    allowed = sorted(os.sched_getaffinity(0))
    if counts[-1] > len(allowed):
        parser.error(f"--cores {arguments.cores}: this machine has {len(allowed)}")
    if arguments.images is not None and arguments.images < BATCH:
        parser.error(f"--images {arguments.images}: allowed: at least {BATCH}, which is a batch")
    arguments.output.mkdir(parents=True, exist_ok=True)
    # Of all processes that read images.
    os.environ[FOLDER] = str(arguments.output / "cache")
    cells, scalings = list[Cell](), list[Scaling]()
    for side in sides:
        images = arguments.images or images_of(side)
        own = Measurement(output=arguments.output, side=side, images=images, seconds=arguments.seconds)
        for count in counts:
            cells += own.cells(allowed[:count])
        if len(counts) > 1:
            scalings += own.scalings(allowed[: counts[-1]], counts[0])
    print(f"{hardware()}, batches of {BATCH}, on the {pick_device().type}; behind a number: times timm's, with quartiles\n")
    print(table(cells, scalings))


if __name__ == "__main__":
    main()
