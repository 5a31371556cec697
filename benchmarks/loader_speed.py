"""Images a second of autoslim's loader, from decoded images and decoding, against timm's own with as many worker processes.

    python benchmarks/loader_speed.py --output runs/loader-speed [--sides 32,224,384] [--cores 1,2] [--seconds 60] [--images 512]

JPEG photographs of 4:3 are generated, whose shorter side is one and a half times the model's. A process for each side and number of cores,
which is bound to them, reads whole epochs with all loaders in turns: `light` beside timm's random resized crop and flip, `strong` beside
timm's RandAugment and erasing (timm leaves out the colour jitter then). Where there is a GPU, batches end on it. timm always decodes.
Results in --output are reused; an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import ImageDataset, create_loader

from autoslim.core.job import DatasetSpec
from autoslim.core.recipe import TrainingSettings
from autoslim.core.record import Record
from autoslim.data import Loader, prepare_dataset
from autoslim.export.profiling.benchmark import hardware
from autoslim.export.profiling.interleaved import ratio, time_interleaved
from autoslim.training.device import pick_device

BATCH, CROP_PCT, NORM = 64, 0.9, (0.5, 0.5, 0.5)
IMAGES = {32: 8192, 224: 512, 384: 256}
"""Of an epoch, by the side: about as long for each. Another side has as many as the next one above."""

AIMS = {"cache": 2.0, "decoding": 0.95}
"""Times timm's images a second, with `light` at 224 pixels."""
SCALING = 1.8


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


def write_images(folder: Path, side: int, count: int) -> None:
    """Class folders of large soft spots under fine grain, which take as many bytes as photographs: `count` images to train with, and a few
    for the other splits."""
    height = side * 3 // 2
    for split, images in (("train", count), ("val", 4), ("test", 4)):
        for number in range(images):
            path = folder / split / f"class{number % 2}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            generator = np.random.default_rng([side, number, len(split)])
            spots = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            soft = np.asarray(spots.resize((height * 4 // 3, height), Image.Resampling.BICUBIC))
            grain = generator.normal(0, 8, (*soft.shape[:2], 1))
            Image.fromarray((soft + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)


def our_loader(source: Path, side: int, augmentation: str, *, limit: int) -> Loader:
    """Of images that are decoded once where they take at most `limit` bytes."""
    spec = DatasetSpec(source=str(source), decoded_limit=limit)
    size = (side, side)
    prepared = prepare_dataset(spec, source.parent / "prepared", seed=0, inputs=[(size, CROP_PCT)])
    training = TrainingSettings(batch_size=BATCH, augmentation=augmentation)
    train = prepared.splits(size, CROP_PCT).train
    return Loader(train, training=training, mean=NORM, std=NORM, image_size=size, seed=0, train=True)


def timm_loader(source: Path, side: int, augmentation: str, *, workers: int, device: torch.device) -> Iterable[Any]:
    strong = augmentation == "strong"
    loader: Iterable[Any] = create_loader(
        ImageDataset(str(source / "train")),
        input_size=(3, side, side),
        batch_size=BATCH,
        is_training=True,
        scale=(0.35, 1.0) if strong else (0.6, 1.0),
        color_jitter=None,
        auto_augment="rand-m9-mstd0.5-mmax9-inc1" if strong else None,
        re_prob=0.25 if strong else 0.0,
        re_mode="pixel",
        interpolation="bicubic",
        mean=NORM,
        std=NORM,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        device=device,
    )
    return loader


def whole_epoch(batches: Callable[[], Iterable[Any]], device: torch.device) -> None:
    for _ in batches():
        pass
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(output: Path, side: int, cores: int, count: int, seconds: float) -> list[Cell]:
    torch.set_num_threads(cores)
    device, epochs = pick_device(), itertools.count()
    source = output / f"images-{side}-{count}" / "source"
    if not source.is_dir():
        partial = source.with_name("partial")
        write_images(partial, side, count)
        partial.rename(source)
    cells = []
    for augmentation in ("light", "strong"):
        cached = our_loader(source, side, augmentation, limit=2**40)
        decoding = our_loader(source, side, augmentation, limit=0)
        theirs = timm_loader(source, side, augmentation, workers=cores, device=device)
        loaders: dict[str, Callable[[], Iterable[Any]]] = {
            "timm": lambda theirs=theirs: theirs,
            "cache": lambda cached=cached: cached.epoch(next(epochs), device),
            "decoding": lambda decoding=decoding: decoding.epoch(next(epochs), device),
        }
        runs = [lambda batches=batches: whole_epoch(batches, device) for batches in loaders.values()]
        timings = dict(zip(loaders, time_interleaved(runs, seconds=seconds), strict=True))
        for name, own in timings.items():
            times, low, high = ratio(timings["timm"], own)
            speed = len(cached) * BATCH / statistics.median(own)
            cells.append(
                Cell(side=side, cores=cores, augmentation=augmentation, loader=name, speed=speed, times=times, low=low, high=high)
            )
    return cells


def images_of(side: int) -> int:
    return next((IMAGES[known] for known in sorted(IMAGES) if side <= known), min(IMAGES.values()))


def table(cells: Sequence[Cell]) -> str:
    """A line for each side, augmentation and loader: images a second by cores, and the aims behind it."""
    cores = sorted({cell.cores for cell in cells})
    found = {(cell.side, cell.augmentation, cell.loader, cell.cores): cell for cell in cells}
    lines = [
        "| pixels | augmentation | loader | " + " | ".join(f"{count} cores, images/s" for count in cores) + " | scaling |",
        "|---" * (4 + len(cores)) + "|",
    ]
    for row in dict.fromkeys(key[:3] for key in found):
        own = [found.get((*row, count)) for count in cores]
        first, last = own[0], own[-1]
        scaling = f"{last.speed / first.speed:.2f}" if first and last and len(cores) > 1 else ""
        lines.append(f"| {row[0]} | {row[1]} | {row[2]} | " + " | ".join(map(_shown, own)) + f" | {scaling} |")
    return "\n".join([*lines, "", *_judged(found, cores)])


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return ""
    times = "" if cell.loader == "timm" else f", {cell.times:.2f} ({cell.low:.2f}-{cell.high:.2f})"
    return f"{cell.speed:.0f}{times}"


def _judged(found: dict[tuple[int, str, str, int], Cell], cores: list[int]) -> list[str]:
    lines = []
    for name, aim in AIMS.items():
        own = [found[key] for count in cores if (key := (224, "light", name, count)) in found]
        lines += [f"{name}, {cell.cores} cores: {cell.times:.2f} times timm's, {_met(cell.times, aim)}" for cell in own]
        if len(own) > 1:
            scaling = own[-1].speed / own[0].speed
            lines.append(f"{name}: {scaling:.2f} times as fast on {cores[-1]} cores as on {cores[0]}, {_met(scaling, SCALING)}")
    return lines


def _met(value: float, aim: float) -> str:
    return f"the aim of {aim} is {'met' if value >= aim else 'missed'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sides", default="32,224,384")
    parser.add_argument("--cores", default="1,2")
    parser.add_argument("--seconds", type=float, default=60.0, help="of one measurement; at least five rounds")
    parser.add_argument("--images", type=int, help="of an epoch; by default as many as take about as long at each side")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sides, counts = ([int(part) for part in text.split(",")] for text in (arguments.sides, arguments.cores))
    if arguments.measure is not None:
        cells = measure(arguments.output, sides[0], counts[0], arguments.images, arguments.seconds)
        arguments.measure.write_text("".join(cell.to_json() + "\n" for cell in cells))
        return
    allowed = sorted(os.sched_getaffinity(0))
    if max(counts) > len(allowed):
        parser.error(f"--cores {arguments.cores}: this machine has {len(allowed)}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    cells = []
    for side, cores in itertools.product(sides, counts):
        images = arguments.images or images_of(side)
        path = arguments.output / f"{side}-{cores}-{images}-{arguments.seconds:g}.jsonl"
        if not path.is_file():
            print(f"{side} pixels, {cores} cores", file=sys.stderr, flush=True)
            # What is started inherits it, with all its threads.
            os.sched_setaffinity(0, allowed[:cores])
            partial, settings = path.with_suffix(".partial"), ["--sides", str(side), "--cores", str(cores), "--measure"]
            own = ["--output", str(arguments.output), "--images", str(images), "--seconds", str(arguments.seconds)]
            cache = {**os.environ, "AUTOSLIM_CACHE": str(arguments.output / "cache"), "OMP_NUM_THREADS": str(cores)}
            subprocess.run([sys.executable, __file__, *own, *settings, str(partial)], check=True, env=cache)
            partial.rename(path)
        cells += [Cell.from_json(line) for line in path.read_text().splitlines()]
    print(f"{hardware()}, batches of {BATCH}, on the {pick_device().type}; behind a number: times timm's, with quartiles\n")
    print(table(cells))


if __name__ == "__main__":
    main()
