"""Does a data set of ImageNet's size fit: the memory of driver and trial, and the start of a second search.

    python benchmarks/imagenet_size.py --output runs/imagenet-size [--images 1281167] [--gib 140] [--layouts shards,folders,large]

Sets are generated once, shard by shard: `shards` are 257 Parquet files and `folders` 1,000 class folders, both of --images tiny images,
all different; `large` are 257 Parquet files of --gib GiB, in images of about 4 MiB. Each takes its size in the output folder twice, once
prepared. Every step is a process of its own, whose peak of resident memory the kernel keeps; that of processes that decode is beside it.
A trial's is compared with that of a trial on `small`, a thousandth of the images. On `small`, `shards` and `folders` `autoslim search`
runs twice, with one trial of a tiny model: once with an empty cache, and in another output folder. Exits with 1 where a bound is passed.
Data and results in --output are reused; an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import io
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from autoslim.core.job import DatasetSpec
from autoslim.core.record import OPTIONAL, Record
from autoslim.core.run_folder import RunFolder
from autoslim.core.urls import default_url
from autoslim.core.user_cache import cache_folder
from autoslim.data import PreparedDataset, open_dataset, prepare_dataset
from autoslim.data.dataset import SPLITS
from autoslim.data.parquet import IMAGE_TYPE, class_names_metadata
from autoslim.store import Store

if TYPE_CHECKING:
    import psutil

IMAGES, SHARDS, CLASSES = 1_281_167, 257, 1_000
"""Of ImageNet-1k: training images, shards on the Hugging Face hub, classes."""

SIDE, CROP_PCT = 8, 1.0
"""Of the tiny images, and of the model that takes them: 246 MB decoded."""

_BASES = 64
"""Different pictures. Files differ by a number behind the end of the picture, which decoders pass over."""
_LARGE_SIDE = 1_500
_BATCH, _BATCHES = 64, 50
_LARGE_BATCHES = 10
"""Of large images: what a trial holds does not grow with the batches that it has read."""

_EPOCHS = "0.01"
"""Of the trial, and of the dense model before it: its evaluation on a tenth of the images takes most of the time."""

SEARCH = [
    "--model", "deit_tiny_patch16_224", "--from-scratch", "--model-args", "patch_size=2,embed_dim=32,depth=4,num_heads=2",
    "--image-size", str(SIDE), "--flops", "70%", "--trials", "1", "--space", "smoke", "--epochs", _EPOCHS, "--base-epochs", _EPOCHS,
    "--batch-size", str(_BATCH), "--resources", "cpu=1", "--decoded-limit", "0", "--scheduler", "none", "--progress", "none",
]  # fmt: skip
"""Of a model whose steps take next to no time."""
ENDS_WITH_TRIAL = ["--speed", "none", "--forms", "none"]

_LOOK_SECONDS = 0.2

DRIVER_MIB = 2_048
SECOND_START_SECONDS = 10.0
TRIAL_MIB = 64
"""Above that of a trial on the small set: what a trial holds of a million images are labels and an epoch's order, 16 bytes an image."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step(Record):
    """One process: its peak of resident memory, and that of the largest process that decoded for it. Of a search `trial_mib` is the peak of
    the process that ran the trial, and seconds from its start are those in which the images are ready, and in which the trial begins.
    """

    layout: str
    step: str
    images: int
    seconds: float
    mib: float
    children_mib: float
    trial_mib: float = dataclasses.field(default=0.0, metadata=OPTIONAL)
    ready_seconds: float = dataclasses.field(default=0.0, metadata=OPTIONAL)
    trial_begins_seconds: float = dataclasses.field(default=0.0, metadata=OPTIONAL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workplace:
    """Folders of one set."""

    output: Path
    layout: str

    @property
    def source(self) -> Path:
        return self.output / self.layout / "source"

    @property
    def prepared(self) -> Path:
        return self.output / self.layout / "prepared"

    @property
    def again(self) -> Path:
        """The output of a second search."""
        return self.output / self.layout / "again"

    @property
    def searches(self) -> Path:
        return self.output / self.layout / "searches"

    def spec(self, *, once: bool) -> DatasetSpec:
        return DatasetSpec(source=str(self.source), decoded_limit=2**50 if once else 0)


def picture(number: int, side: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=100 if side > SIDE else 90)
    return buffer.getvalue()


def pictures(side: int, numbers: range, bases: int = _BASES) -> Iterator[tuple[bytes, int]]:
    """Encoded images and their labels."""
    known = [picture(number, side) for number in range(bases)]
    return ((known[number % bases] + number.to_bytes(8, "little"), number % CLASSES) for number in numbers)


def write_shards(folder: Path, side: int, images: int, *, bases: int = _BASES) -> None:
    names = class_names_metadata([f"class {number:04}" for number in range(CLASSES)])
    schema = pa.schema([("image", IMAGE_TYPE), ("label", pa.int64())], metadata=names)
    bounds = [images * number // SHARDS for number in range(SHARDS + 1)]
    for number, (first, last) in enumerate(itertools.pairwise(bounds)):
        path = folder / f"train-{number:05}-of-{SHARDS:05}.parquet"
        if path.is_file():
            continue
        rows = [({"bytes": data, "path": None}, label) for data, label in pictures(side, range(first, last), bases)]
        partial = path.with_suffix(".partial")
        columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)]
        pq.write_table(pa.table(columns, schema=schema), partial, row_group_size=100, compression="none")
        partial.rename(path)


def write_folders(folder: Path, images: int) -> None:
    done = folder / ".done"
    known = [picture(number, SIDE) for number in range(_BASES)]
    for label in range(CLASSES):
        own = folder / f"n{label:08}"
        if done.is_file() and label < int(done.read_text()):
            continue
        own.mkdir(exist_ok=True)
        for number in range(label, images, CLASSES):
            (own / f"n{label:08}_{number:08}.JPEG").write_bytes(known[number % _BASES] + number.to_bytes(8, "little"))
        done.write_text(str(label + 1))


def generate(place: Workplace, images: int) -> None:
    place.source.mkdir(parents=True, exist_ok=True)
    if place.layout == "folders":
        write_folders(place.source, images)
    elif place.layout == "large":
        write_shards(place.source, _LARGE_SIDE, images, bases=4)
    else:
        write_shards(place.source, SIDE, images)


def opened(place: Workplace, folder: Path, *, once: bool) -> PreparedDataset:
    return prepare_dataset(place.spec(once=once), folder, seed=0, inputs=[((SIDE, SIDE), CROP_PCT)])


def prepare(place: Workplace, images: int) -> None:
    """As a first search does. Without the user's cache, and without what an interrupted run left."""
    for folder in (place.prepared, cache_folder()):
        shutil.rmtree(folder, ignore_errors=True)
    prepared = opened(place, place.prepared, once=False)
    found = sum(getattr(prepared.report, split).images for split in SPLITS)
    assert found == images, f"{found} of {images} images"


def start_again(place: Workplace) -> None:
    """As a search with another output gets the images: from the user's cache, by the names, sizes and times of the source's files."""
    shutil.rmtree(place.again, ignore_errors=True)
    prepared = opened(place, place.again, once=False)
    prepared.lines([((SIDE, SIDE), CROP_PCT)])
    assert not prepared.splits((SIDE, SIDE), CROP_PCT).decoded


def plan(place: Workplace) -> dict[str, float]:
    """The command, of which the images are a part; it has no output, and takes the set that is prepared."""
    peaks = watched(["plan", *SEARCH, "--data", str(place.source)])
    return {"mib": peaks["mib"], "children_mib": peaks["children_mib"]}


def prepare_decoded(place: Workplace) -> None:
    """With the pixels of all images in one file a split, in one pass: without the user's cache."""
    shutil.rmtree(cache_folder(), ignore_errors=True)
    prepared = opened(place, place.prepared, once=True)
    assert prepared.splits((SIDE, SIDE), CROP_PCT).decoded


def trial(place: Workplace, *, once: bool) -> None:
    """The batches of a trial's training and its evaluation, without a model."""
    from autoslim.core.recipe import TrainingSettings
    from autoslim.data import Loader

    path = next(
        folder
        for folder in place.prepared.iterdir()
        if folder.is_dir() and (open_dataset(folder).report.decoded_limit > 0) is once
    )
    splits, norm = open_dataset(path).splits((SIDE, SIDE), CROP_PCT), (0.5, 0.5, 0.5)
    training = TrainingSettings(batch_size=_BATCH, augmentation="light")
    for split, train in ((splits.train, True), (splits.validation, False)):
        loader = Loader(split, training=training, mean=norm, std=norm, image_size=(SIDE, SIDE), seed=0, train=train)
        # Where images are decoded already, all of them: what is read once must not stay.
        batches = _LARGE_BATCHES if place.layout == "large" else _BATCHES
        for _ in itertools.islice(loader.epoch(0), None if once else batches):
            pass


def first_search(place: Workplace) -> dict[str, float]:
    for folder in (place.searches, cache_folder()):
        shutil.rmtree(folder, ignore_errors=True)
    return searched(place, place.searches / "first")


def second_search(place: Workplace) -> dict[str, float]:
    shutil.rmtree(place.searches / "second", ignore_errors=True)
    return searched(place, place.searches / "second")


def searched(place: Workplace, output: Path) -> dict[str, float]:
    """Returns the fields of its step."""
    output.parent.mkdir(exist_ok=True)
    began = time.time()
    peaks = watched(["search", *SEARCH, *ENDS_WITH_TRIAL, "--data", str(place.source), "--output", str(output)])
    folder = RunFolder(output)
    with Store(default_url(str(output))) as store:
        trials = store.stored_trials(folder.read_job().id)
    # Beside the trial that is asked for there is one of a random recipe.
    first = min(datetime.datetime.fromisoformat(trial.started_at).timestamp() for trial in trials)
    # It is written when the images are prepared.
    return {**peaks, "ready_seconds": folder.job_file.stat().st_mtime - began, "trial_begins_seconds": first - began}


def watched(arguments: list[str]) -> dict[str, float]:
    """Runs a command, and looks at its processes as long as it does; returns their peaks of memory by the fields of a step."""
    import psutil

    peaks = {"mib": 0.0, "trial_mib": 0.0, "children_mib": 0.0}
    with subprocess.Popen([sys.executable, "-m", "autoslim.cli", *arguments]) as command:
        own = psutil.Process(command.pid)
        while command.poll() is None:
            # Processes end while they are looked at.
            with contextlib.suppress(psutil.Error):
                for process in [own, *own.children(recursive=True)]:
                    with contextlib.suppress(psutil.Error, OSError, IndexError, ValueError):
                        if (kind := kind_of(process, command.pid)) is not None:
                            peaks[kind] = max(peaks[kind], high_water(process.pid))
            time.sleep(_LOOK_SECONDS)
    assert command.returncode == 0, f"{arguments[0]} ended with {command.returncode}"
    return peaks


def kind_of(process: psutil.Process, driver: int) -> str | None:
    """The field that the peak of a search's process belongs to."""
    command = process.cmdline()
    # Ray names the process of a trial after its trainable.
    if command[0].startswith("ray::") and "Trainable" in command[0]:
        return "trial_mib"
    if "autoslim.data.decoder_process" in " ".join(command):
        return "children_mib"
    return "mib" if process.pid == driver else None


STEPS: dict[str, Callable[[Workplace, int], dict[str, float] | None]] = {
    "generate": generate,
    "prepare": prepare,
    "start again": lambda place, _: start_again(place),
    "plan": lambda place, _: plan(place),
    "trial, decoding": lambda place, _: trial(place, once=False),
    "prepare decoded": lambda place, _: prepare_decoded(place),
    "trial, decoded once": lambda place, _: trial(place, once=True),
    "search": lambda place, _: first_search(place),
    "second search": lambda place, _: second_search(place),
}
SEARCHES = ("search", "second search")
DECODED = ("prepare decoded", "trial, decoded once")
LEFT_OUT = {"folders": DECODED, "large": (*DECODED, *SEARCHES)}
"""The prepared set of `folders` has the form of that of `shards`, and the few images of `large` say nothing new there."""


def high_water(process: int | str) -> float:
    """The most memory that a process had resident, in MiB. Not `ru_maxrss`, which a child takes over from who starts it."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measured(place: Workplace, step: str, images: int) -> Step:
    import psutil

    began = time.monotonic()
    found = STEPS[step](place, images)
    seconds = time.monotonic() - began
    if not found:
        children = [high_water(child.pid) for child in psutil.Process().children(recursive=True)]
        found = {"mib": high_water("self"), "children_mib": max(children, default=0.0)}
    return Step(layout=place.layout, step=step, images=images, seconds=seconds, **found)


def run_steps(output: Path, layout: str, images: int) -> Iterator[Step]:
    for step in STEPS:
        if step in LEFT_OUT.get(layout, ()):
            continue
        path = output / layout / f"{step.replace(', ', '-').replace(' ', '-')}.json"
        if not path.is_file():
            print(f"{layout}: {step}", file=sys.stderr, flush=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            own = ["--output", str(output), "--images", str(images), "--layouts", layout, "--step", step, "--write", str(partial)]
            environment = {**os.environ, "AUTOSLIM_CACHE": str(output / layout / "cache")}
            subprocess.run([sys.executable, __file__, *own], check=True, env=environment)
            partial.rename(path)
        yield Step.from_json(path.read_text())


def bound_of(step: Step, small: dict[str, Step]) -> tuple[float, str] | None:
    """What the step is held to: the share of its bound that it takes, and the bound in words."""
    if step.step in SEARCHES:
        most = small[step.step].trial_mib + TRIAL_MIB
        share, words = max(step.mib / DRIVER_MIB, step.trial_mib / most), f"{DRIVER_MIB} MiB; trial {most:.0f} MiB"
        if step.step == "search":
            return share, words
        return max(share, step.ready_seconds / SECOND_START_SECONDS), f"{words}; ready in {SECOND_START_SECONDS:.0f} s"
    if step.step.startswith("trial"):
        most = small[step.step].mib + TRIAL_MIB
        return step.mib / most, f"{most:.0f} MiB: {TRIAL_MIB} above `small`"
    if step.step == "start again":
        share = max(step.mib / DRIVER_MIB, step.seconds / SECOND_START_SECONDS)
        return share, f"{DRIVER_MIB} MiB, {SECOND_START_SECONDS:.0f} s"
    return None if step.step == "generate" else (step.mib / DRIVER_MIB, f"{DRIVER_MIB} MiB")


def tables(steps: list[Step]) -> tuple[str, bool]:
    """The tables of the steps and of the searches, and whether every bound is kept."""
    small = {step.step: step for step in steps if step.layout == "small"}
    parts = ["| set | images | step | seconds | MiB | MiB of a decoder | bound | |", "|---" * 8 + "|"]
    searches = [
        "| set | images | step | images ready, s | trial begins, s | MiB of the driver | of the trial | bound | |",
        "|---" * 9 + "|",
    ]
    kept = True
    for step in steps:
        bound = None if step.layout == "small" else bound_of(step, small)
        held = bound is None or bound[0] <= 1
        kept = kept and held
        end = f"{bound[1] if bound else ''} | {'' if bound is None else 'kept' if held else '**passed**'} |"
        begin = f"| {step.layout} | {step.images:,} | {step.step} |"
        if step.step in SEARCHES:
            times = f"{step.ready_seconds:.1f} | {step.trial_begins_seconds:.1f}"
            searches.append(f"{begin} {times} | {step.mib:.0f} | {step.trial_mib:.0f} | {end}")
        else:
            decoder = f"{step.children_mib:.0f}" if step.children_mib else ""
            parts.append(f"{begin} {step.seconds:.1f} | {step.mib:.0f} | {decoder} | {end}")
    return "\n".join([*parts, "", *searches]), kept


def images_of(layout: str, images: int, gib: float) -> int:
    if layout == "small":
        # Every class needs some for each split.
        return max(4 * CLASSES, images // 1_000)
    if layout == "large":
        # As many as fill the size, and enough for every class to have some in each split.
        return max(4 * CLASSES, round(gib * 2**30 / len(picture(0, _LARGE_SIDE))))
    return max(4 * CLASSES, images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--images", type=int, default=IMAGES, help="of shards and folders; at least 4,000")
    parser.add_argument("--gib", type=float, default=140.0, help="of the encoded images of `large`; at least 4,000 images")
    parser.add_argument("--layouts", default="shards,folders,large")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    layouts = arguments.layouts.split(",")
    if arguments.step is not None:
        found = measured(Workplace(output=arguments.output, layout=layouts[0]), arguments.step, arguments.images)
        arguments.write.write_text(found.to_json())
        return
    wrong = sorted(set(layouts) - {"shards", "folders", "large"})
    if wrong:
        parser.error(f"--layouts has {wrong[0]!r}; allowed: shards, folders, large")
    # The results of one number of images are not those of another.
    output = arguments.output / f"{arguments.images}-{arguments.gib:g}"
    counts = {layout: images_of(layout, arguments.images, arguments.gib) for layout in ("small", *layouts)}
    steps = [step for layout, images in counts.items() for step in run_steps(output, layout, images)]
    text, kept = tables(steps)
    print(text)
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
