"""What the exported forms of slimmed models are worth: the accuracy of each file on all test images, its size and its speed.

    AUTOSLIM_DATA=... python benchmarks/forms.py --output runs/forms [--methods width,patch_slimming]

Each method slims `vit-cifar10` to half of its FLOPs and is exported by `autoslim export`. What is finished in --output is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

METHODS = ("width", "patch_slimming")
FORMATS = "onnx,pt2,openvino,onnx-int8"
TRAINING = ("--flops", "50%", "--epochs", "1", "--train-limit", "5000", "--lr", "0.0003", "--speed", "none")


def autoslim(*words: str) -> str:
    """The command's standard output; it writes its progress to ours."""
    return subprocess.run([sys.executable, "-m", "autoslim.cli", *words], stdout=subprocess.PIPE, text=True, check=True).stdout


def exported(method: str, data: Path, output: Path) -> dict[str, Any]:
    """What `autoslim export --json` says of the method's model."""
    kept, folder = output / f"{method}.json", output / method
    if not kept.is_file():
        cifar10 = ("--data", str(data / "cifar10"))
        model = ("--model", str(data / "vit-cifar10"))
        autoslim("slim", "--method", method, *model, *cifar10, *TRAINING, "--output", str(folder))
        kept.write_text(autoslim("export", str(folder), "--format", FORMATS, *cifar10, "--json"))
    return dict(json.loads(kept.read_text()))


def rows(found: dict[str, Any]) -> list[str]:
    """A row for the weights and for each file, sizes in MB of a million bytes."""
    folder = Path(found["folder"])
    lines = [f"| `model.safetensors` | {found['accuracy']:.2%} | | {size(folder / 'model.safetensors'):.2f} | | | |"]
    for form in found["forms"]:
        if not form["file"]:
            lines.append(f"| {form['name']} | not made: {form['reason']} | | | | | |")
            continue
        own = [timing for timing in found["speed"]["timings"] if timing["mode"] == form["name"]]
        times = [
            f"{timing['slimmed_ms']:.3g} ms, {timing['speedup']:.2f} ({timing['low']:.2f}-{timing['high']:.2f})" for timing in own
        ]
        cells = [f"`{form['file']}`", f"{form['accuracy']:.2%}", f"{form['drop']:+.2f}", f"{size(folder / form['file']):.2f}"]
        lines.append(f"| {' | '.join([*cells, *times])} |")
    return lines


def size(path: Path) -> float:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/forms"))
    parser.add_argument("--methods", default=",".join(METHODS))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    data = Path(os.environ["AUTOSLIM_DATA"])
    for method in arguments.methods.split(","):
        found = exported(method, data, arguments.output)
        batches = sorted({timing["batch"] for timing in found["speed"]["timings"]})
        print(f"\n## `{method}` at half of the FLOPs\n\n{found['images']} test images; {found['speed']['hardware']}, "
              f"{found['speed']['threads']} threads\n")  # fmt: skip
        print(f"| file | top-1 | points lost | MB | {' | '.join(f'batch {b}, times as fast as dense' for b in batches)} |")
        print(f"|---|---|---|---|{'---|' * len(batches)}")
        print("\n".join(rows(found)))
        print("\n" + "\n".join(f"`{form['file']}`: {form['made']}" for form in found["forms"] if form.get("made")))


if __name__ == "__main__":
    main()
