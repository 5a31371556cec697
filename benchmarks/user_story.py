"""A user's whole path: given images, a given trained model and two budgets to delivered models that run without autoslim.

    AUTOSLIM_DATA=... python benchmarks/user_story.py --output runs/story [--story signdigits100] [--trials 8]

Both stories start from `vit-cifar10`, which was trained on 32-pixel images of other classes. `signdigits100` are hand signs, used at 64
pixels; `imagenette224-small` are photographs at 224 pixels with patches of 16. Only the documented commands are used; their output is
written to --output, and an unfinished search there is resumed.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Story:
    """`flags` besides the model, the data and the budgets."""

    data: str
    flags: tuple[str, ...]


STORIES = (
    Story("signdigits100", ("--image-size", "64", "--no-flip", "--base-epochs", "8", "--epochs", "4")),
    Story("imagenette224-small", ("--image-size", "224", "--model-args", "patch_size=16", "--base-epochs", "8", "--epochs", "4")),
)


def autoslim(*words: str, log: Path) -> str:
    """The command's standard output; its standard error is appended to `log`."""
    with log.open("a") as progress:
        run = subprocess.run(
            [sys.executable, "-m", "autoslim.cli", *words], stdout=subprocess.PIPE, stderr=progress, text=True, check=True
        )
    return run.stdout


def search_flags(story: Story, data: Path, trials: int) -> list[str]:
    flags = ["--model", str(data / "vit-cifar10"), "--data", str(data / story.data), "--flops", "70%", "--flops", "50%"]
    return [*flags, "--trials", str(trials), "--speed", "eager,onnxruntime", *story.flags]


def run_search(story: Story, data: Path, output: Path, trials: int) -> dict[str, Any]:
    """The summary of the search, with the minutes of all its attempts."""
    kept = output / "summary.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text()))
    folder = output / "search"
    words = ["--resume"] if (folder / "job.json").is_file() else search_flags(story, data, trials)
    began = time.monotonic()
    try:
        summary = json.loads(autoslim("search", *words, "--output", str(folder), "--json", log=output / "search.log"))
    finally:  # an interrupted run's time counts, too
        with (output / "minutes.txt").open("a") as minutes:
            print((time.monotonic() - began) / 60, file=minutes)
    summary["minutes"] = sum(map(float, (output / "minutes.txt").read_text().split()))
    kept.write_text(json.dumps(summary, indent=1))
    return dict(summary)


def write_images(source: Path, folder: Path) -> list[int]:
    """All test images as files `0000.png`…, and their labels."""
    table = pq.read_table(source / "test.parquet")
    folder.mkdir(exist_ok=True)
    for place, image in enumerate(table["image"].to_pylist()):
        Image.open(io.BytesIO(image["bytes"])).save(folder / f"{place:04d}.png")
    return list(table["label"].to_pylist())


def classify(model: Path, images: Path, labels: list[int]) -> float:
    """Top-1 accuracy of the model's own `load.py`, in a process that cannot import autoslim."""
    classes = json.loads((model / "config.json").read_text())["classes"]
    files = sorted(images.glob("*.png"))
    run = subprocess.run(
        [sys.executable, "-I", str(model / "load.py"), *map(str, files)], capture_output=True, text=True, check=True, cwd=images
    )
    predictions = [line.partition(": ")[2] for line in run.stdout.splitlines()]
    assert len(predictions) == len(labels)
    return sum(line.startswith(f"{classes[label]} ") for line, label in zip(predictions, labels, strict=True)) / len(labels)


def check_sums(model: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=model, check=True)


def render_story(story: Story, data: Path, output: Path, trials: int) -> str:
    """The story as Markdown."""
    output.mkdir(parents=True, exist_ok=True)
    plan = autoslim("plan", *search_flags(story, data, trials), "--output", str(output / "plan"), log=output / "plan.log")
    (output / "plan.txt").write_text(plan)
    summary = run_search(story, data, output, trials)
    labels = write_images(data / story.data, output / "images")
    rows = []
    for model in summary["models"]:
        folder = Path(model["folder"])
        check_sums(folder)
        evaluated = json.loads(
            autoslim("evaluate", str(folder), "--data", str(data / story.data), "--json", log=output / "evaluate.log")
        )
        config = json.loads((folder / "config.json").read_text())
        timings = {(timing["mode"], timing["batch"]): timing for timing in config["speed"]["laps"] if timing["device"] == "cpu"}
        fast = ", ".join(f"{mode} {timing['speedup']:.2f} at batch {batch}" for (mode, batch), timing in sorted(timings.items()))
        rows.append(
            f"| {model['label']} | {model['method']} | {model['flops'] / summary['dense_flops']:.1%} | {model['params'] / 1e6:.2f} M | "
            f"{model['test_accuracy']:.2%} | {evaluated['accuracy']:.2%} | {classify(folder, output / 'images', labels):.2%} | {fast} |"
        )
    dense = summary["models"][0]["dense_test_accuracy"] if summary["models"] else float("nan")
    states = ", ".join(f"{count} {state}" for state, count in summary["states"].items() if count)
    command = " ".join(word.replace(str(data), "$AUTOSLIM_DATA") for word in search_flags(story, data, trials))
    return "\n".join(
        [
            f"**{story.data}**: `autoslim search {command}`",
            "",
            f"{states} trials in {summary['minutes']:.0f} minutes. The dense model, adapted: {dense:.2%} test top-1.",
            "",
            "| budget | method | FLOPs | params | test top-1 | `evaluate` | `load.py`, on files | times as fast as dense |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            *(f"\nNo model for {label}." for label in summary["missing"]),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--story", choices=[story.data for story in STORIES], action="append")
    parser.add_argument("--trials", type=int, default=8)
    arguments = parser.parse_args()
    data = Path(os.environ["AUTOSLIM_DATA"])
    for story in STORIES:
        if not arguments.story or story.data in arguments.story:
            print(render_story(story, data, arguments.output.absolute() / story.data, arguments.trials), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
