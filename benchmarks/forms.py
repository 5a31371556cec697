"""What the exported forms of slimmed models are worth: the accuracy of each file on all test images, its size and its speed.

    AUTOSLIM_DATA=... python benchmarks/forms.py --output runs/forms [--methods width,patch_slimming]
    AUTOSLIM_DATA=... python benchmarks/forms.py --output runs/forms --search runs/cifar10/search

Each method slims `vit-cifar10` to half of its FLOPs and is exported by `autoslim export`; with `--search` the models of a finished search
on CIFAR-10 are, such as that of `cifar10_search.py`, whose folder stays as it is. What is finished in --output is not made again, and an
interrupted `slim` goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

METHODS = ("width", "patch_slimming")
FORMATS = "onnx,pt2,openvino,onnx-int8"
TRAINING = ("--flops", "50%", "--epochs", "1", "--train-limit", "5000", "--lr", "0.0003", "--speed", "none")


def autoslim(*words: str) -> str:
    """The command's standard output; it writes its progress to ours."""
    return subprocess.run([sys.executable, "-m", "autoslim.cli", *words], stdout=subprocess.PIPE, text=True, check=True).stdout


def slimmed(method: str, data: Path, output: Path) -> Path:
    """The folder of `vit-cifar10` slimmed by the method; `autoslim slim` continues an interrupted run, and leaves a finished one."""
    folder = output / method
    model = ("--model", str(data / "vit-cifar10"), "--data", str(data / "cifar10"))
    autoslim("slim", "--method", method, *model, *TRAINING, "--output", str(folder))
    return folder


def copied(model: Path, output: Path) -> Path:
    """A copy of a search's model, which an export would change."""
    folder = output / f"searched-{model.name}"
    if not folder.is_dir():
        unfinished = output / f".{folder.name}.partial"
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(model, unfinished)
        unfinished.rename(folder)
    return folder


def exported(name: str, output: Path, make: Callable[[], Path], data: Path) -> dict[str, Any]:
    """What `autoslim export --json` says of the model that `make` makes; of one that was exported before what it said then."""
    kept = output / f"{name}.json"
    if not kept.is_file():
        text = autoslim("export", str(make()), "--format", FORMATS, "--data", str(data / "cifar10"), "--json")
        kept.with_suffix(".partial").write_text(text)
        kept.with_suffix(".partial").rename(kept)
    return dict(json.loads(kept.read_text()))


def rows(found: dict[str, Any], *, columns: int) -> list[str]:
    """A row for the weights and for each file, sizes in MB of a million bytes; `columns` are those of times."""
    folder, untimed = Path(found["folder"]), " |" * columns
    lines = [f"| `model.safetensors` | {found['accuracy']:.2%} | | {size(folder / 'model.safetensors'):.2f} |{untimed}"]
    for form in found["forms"]:
        if not form["file"]:
            lines.append(f"| {form['name']} | not made: {form['reason']} | | |{untimed}")
            continue
        own = [timing for timing in found["speed"]["timings"] if timing["mode"] == form["name"]]
        times = [
            f"{timing['slimmed_ms']:.3g} ms, {timing['speedup']:.2f} ({timing['low']:.2f}-{timing['high']:.2f})" for timing in own
        ]
        cells = [f"`{form['file']}`", f"{form['accuracy']:.2%}", f"{form['drop']:+.2f}", f"{size(folder / form['file']):.2f}"]
        lines.append(f"| {' | '.join([*cells, *times, *[''] * (columns - len(times))])} |")
    return lines


def size(path: Path) -> float:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def tables(title: str, found: dict[str, Any]) -> str:
    """Markdown."""
    speed = found["speed"]
    batches = sorted({timing["batch"] for timing in speed["timings"]})
    made = [f"`{form['file']}`: {form['made']}." for form in found["forms"] if form.get("made")]
    return "\n".join(
        [
            f"\n## {title}\n",
            f"{found['images']} test images; {speed['hardware']}, {speed['threads']} threads\n",
            f"| file | top-1 | points lost | MB | {' | '.join(f'batch {b}, times as fast as dense' for b in batches)} |",
            f"|---|---|---|---|{'---|' * len(batches)}",
            *rows(found, columns=len(batches)),
            "",
            *made,
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/forms"))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument(
        "--search", type=Path, help="folder of a finished search on CIFAR-10, whose models take the place of --methods"
    )
    arguments = parser.parse_args()
    if "AUTOSLIM_DATA" not in os.environ:
        parser.error("AUTOSLIM_DATA must name the folder that holds cifar10/ and vit-cifar10/")
    output, data = arguments.output, Path(os.environ["AUTOSLIM_DATA"])
    output.mkdir(parents=True, exist_ok=True)
    if arguments.search is None:
        for method in arguments.methods.split(","):
            found = exported(method, output, partial(slimmed, method, data, output), data)
            print(tables(f"`{method}` at half of the FLOPs", found))
        return
    models = sorted(path.parent for path in arguments.search.glob("models/*/config.json"))
    if not models:
        parser.error(f"--search {arguments.search} has no models/*/config.json: give the output folder of a finished search")
    for model in models:
        found = exported(f"searched-{model.name}", output, partial(copied, model, output), data)
        print(tables(f"The model of a search for {model.name}", found))


if __name__ == "__main__":
    main()
