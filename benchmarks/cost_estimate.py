"""The estimate of `autoslim plan`, and of the time left during a search, compared with the search.

    AUTOSLIM_DATA=... python benchmarks/cost_estimate.py --output runs/cost_estimate [--only digits,cifar10]

Every case runs `autoslim plan` and then `autoslim search`, two trials at a time: digits from scratch, and a trained ViT on the first 2,000
images of CIFAR-10. `AUTOSLIM_DATA` is as for `cifar10_search.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

_LEFT = re.compile(r"about (?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)? left")
_DIGITS = (
    "--model deit_tiny_patch16_224 --from-scratch --model-args patch_size=4,embed_dim=64,depth=6,num_heads=4 "
    "--image-size 24 --data digits"
)


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    flags: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a search's output, `seconds` after its start."""

    seconds: float
    text: str


def cases(scratch: Path) -> list[Case]:
    data = Path(os.environ.get("AUTOSLIM_DATA", "."))
    digits = f"{_DIGITS} --flops 70% --flops 50% --epochs 4 --base-epochs 20 --base-lr 3e-3 --batch-size 32 --trials 16"
    cifar = f"--model {data}/vit-cifar10 --data {scratch}/cifar10-part --flops 50% --epochs 2 --trials 8 --final-share 0.4"
    return [
        Case("digits", (*digits.split(), "--speed", "eager,onnxruntime")),
        Case("cifar10", (*cifar.split(), "--speed", "none")),
    ]


def write_subset(source: Path, target: Path) -> None:
    """Writes the first images of CIFAR-10, so that a search takes minutes."""
    target.mkdir(parents=True, exist_ok=True)
    for split, images in (("train", 2000), ("test", 500)):
        pq.write_table(pq.read_table(source / f"{split}.parquet").slice(0, images), target / f"{split}.parquet")


def run(case: Case, output: Path) -> dict[str, Any]:
    """The plan, the summary, and the lines of the search's output."""
    common = ["--concurrency", "2", "--resources", "cpu=1", "--output", str(output), "--json"]
    plan = subprocess.run([*_autoslim("plan"), *case.flags, *common], check=True, stdout=subprocess.PIPE, text=True)
    began, lines = time.monotonic(), []
    with (output.with_suffix(".summary.json")).open("w+") as summary:
        search = subprocess.Popen([*_autoslim("search"), *case.flags, *common], stdout=summary, stderr=subprocess.PIPE, text=True)
        assert search.stderr is not None
        for text in search.stderr:
            lines.append(Line(time.monotonic() - began, text))
        if search.wait() != 0:
            raise SystemExit("".join(line.text for line in lines))
        seconds = time.monotonic() - began
        summary.seek(0)
        summary_json = json.load(summary)
    return {"plan": json.loads(plan.stdout), "summary": summary_json, "seconds": seconds, "lines": lines}


def _autoslim(command: str) -> list[str]:
    return [sys.executable, "-m", "autoslim.cli", command]


def left(lines: list[Line], end: float, share: float) -> tuple[float, float]:
    """Estimated and actual seconds left, at the first line with an estimate after `share` of the whole time."""
    for line in lines:
        found = _LEFT.search(line.text)
        if found is not None and line.seconds >= share * end:
            hours, minutes, seconds = (int(group or 0) for group in found.groups())
            return 3600.0 * hours + 60 * minutes + seconds, end - line.seconds
    raise ValueError(f"no line has an estimate after {share:.0%} of {end:.0f} seconds")


def rows(case: Case, found: dict[str, Any]) -> list[str]:
    plan, cost, end = found["plan"], found["summary"]["cost"], found["seconds"]
    third, half = (left(found["lines"], end, share) for share in (1 / 3, 1 / 2))
    measures = [
        ("wall time, s", plan["seconds"], end),
        (f"{plan['device']} hours", plan["device_hours"], cost["device_hours"]),
        ("disk, MB", plan["bytes"] / 1e6, cost["bytes"] / 1e6),
        ("left after a third of the time, s", *third),
        ("left after half of it, s", *half),
    ]
    return [f"| {case.name} | {name} | {said:.3g} | {was:.3g} | {said / was:.2f} |" for name, said, was in measures]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", default="digits,cifar10")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    print("| search | | estimated | actual | estimated / actual |\n|---|---|---|---|---|")
    for case in cases(arguments.output):
        if case.name in arguments.only.split(","):
            if case.name == "cifar10":
                write_subset(Path(os.environ["AUTOSLIM_DATA"]) / "cifar10", arguments.output / "cifar10-part")
            found = run(case, arguments.output / case.name)
            (arguments.output / f"{case.name}.log").write_text("".join(line.text for line in found["lines"]))
            (arguments.output / f"{case.name}.plan.json").write_text(json.dumps(found["plan"], indent=1))
            print("\n".join(rows(case, found)), flush=True)


if __name__ == "__main__":
    main()
