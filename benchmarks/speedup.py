"""How much of the FLOPs that a method saves becomes time on this machine.

    python benchmarks/speedup.py --output runs/speedup [--models deit_tiny_patch16_224] [--modes eager] [--batches 1,8,64] [--share 0.5]

For each model, mode and batch size one process interleaves the dense model, every method's pruned form at the same share of the FLOPs, and
a narrower dense ViT with about as many FLOPs. Weights are random: time does not depend on them, and token counts are fixed. Results in
--output are reused. `realised` is the speed-up divided by the one that the FLOPs would give.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import os
import statistics
import sys
from pathlib import Path

import torch
from torch import nn

from autoslim.core.job import SPEED_MODES, ModelSpec
from autoslim.core.plan import Plan
from autoslim.core.record import Record
from autoslim.core.shape import ViTShape
from autoslim.cost import count_flops, predict
from autoslim.errors import ExportError
from autoslim.export.profiling import runners
from autoslim.export.profiling.benchmark import hardware
from autoslim.export.profiling.interleaved import ratio, time_interleaved
from autoslim.methods import METHODS, solve
from autoslim.models import create_dense

KNOBS = {"vit_slim": {"width_multiple": 8, "patches": "stay"}}
"""Knobs other than the defaults, for a model that runs fast: widths in multiples of 8."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell(Record):
    """One contestant: its share of the dense model's FLOPs, milliseconds a batch, and the speed-up over dense with quartiles."""

    model: str
    mode: str
    batch: int
    name: str
    share: float
    ms: float
    speedup: float
    low: float
    high: float
    rounds: int

    @property
    def realised(self) -> float:
        return self.speedup * self.share


def contestants(name: str, share: float) -> tuple[ViTShape, dict[str, tuple[nn.Module, float]]]:
    """Models with their share of the FLOPs, counted by fvcore; dense first."""
    dense = create_dense(ModelSpec(name=name, weights="scratch"))
    shape, plan = dense.shape, Plan.dense(dense.shape)
    total = predict(shape, plan).total
    models: dict[str, nn.Module] = {"dense": dense.module}
    for method in METHODS.values():
        solved = solve(method, shape, plan, KNOBS.get(method.name, {}), int(share * total))
        models[method.name] = method.build(copy.deepcopy(dense.module), shape, solved.plan, solved.knobs)
    models["narrower dense ViT"] = narrower(name, shape, int(share * total))
    counted = {key: (model.eval(), count_flops(model, shape.image_size) / total) for key, model in models.items()}
    return shape, counted


def narrower(name: str, shape: ViTShape, budget: int) -> nn.Module:
    """The widest model of the same depth and head width within `budget` whose width is a multiple of 8 and of its heads."""
    best: nn.Module | None = None
    for heads in range(1, shape.heads + 1):
        for head_width in range(16, shape.head_width + 1, 8):
            args = {"embed_dim": heads * head_width, "num_heads": heads}
            if args["embed_dim"] >= shape.dim:
                continue
            model = create_dense(ModelSpec(name=name, weights="scratch", args=args))
            flops = predict(model.shape, Plan.dense(model.shape)).total
            if flops <= budget and (best is None or flops > count_flops(best, shape.image_size)):
                best = model.module
    assert best is not None
    return best


def measure(name: str, mode: str, batches: list[int], share: float, seconds: float, device: torch.device) -> list[Cell]:
    shape, models = contestants(name, share)
    runs = {key: runners.BACKENDS[mode](model, shape, device) for key, (model, _) in models.items()}
    cells = []
    for batch in batches:
        images = torch.randn(batch, 3, *shape.image_size)
        timings = dict(
            zip(
                runs,
                time_interleaved([lambda run=run, images=images: run(images) for run in runs.values()], seconds=seconds),
                strict=True,
            )
        )
        for key, (_, flops) in models.items():
            middle, low, high = ratio(timings["dense"], timings[key])
            ms = 1000 * statistics.median(timings[key])
            cells.append(
                Cell(
                    model=name,
                    mode=f"{mode}, {device.type}",
                    batch=batch,
                    name=key,
                    share=flops,
                    ms=ms,
                    speedup=middle,
                    low=low,
                    high=high,
                    rounds=len(timings[key]),
                )
            )
            print(f"{name} {mode} batch {batch} {key}: {ms:.4g} ms, {middle:.3f} times as fast", file=sys.stderr, flush=True)
    return cells


def table(cells: list[Cell]) -> str:
    lines = []
    for model in dict.fromkeys(cell.model for cell in cells):
        own = [cell for cell in cells if cell.model == model]
        columns = list(dict.fromkeys((cell.mode, cell.batch) for cell in own))
        lines += ["", f"**{model}**", "", "| | FLOPs | " + " | ".join(f"{mode}, batch {batch}" for mode, batch in columns) + " |"]
        lines.append("|---|---|" + "---|" * len(columns))
        for name in dict.fromkeys(cell.name for cell in own):
            found = {(cell.mode, cell.batch): cell for cell in own if cell.name == name}
            shown = [_shown(found.get(column)) for column in columns]
            lines.append(f"| {name} | {next(iter(found.values())).share:.1%} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return ""
    if cell.name == "dense":
        return f"{cell.ms:.4g} ms"
    return f"{cell.speedup:.2f} ({cell.low:.2f}-{cell.high:.2f}), {cell.realised:.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--models", default="deit_tiny_patch16_224,deit_small_patch16_224")
    parser.add_argument("--modes", default=",".join(SPEED_MODES))
    parser.add_argument("--device", default="cpu", help="cpu or cuda; cuda in bfloat16")
    parser.add_argument("--batches", default="1,8,64")
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--seconds", type=float, default=20.0, help="of one interleaved measurement; at least five rounds")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    batches = [int(batch) for batch in arguments.batches.split(",")]
    cells: list[Cell] = []
    for model in arguments.models.split(","):
        for mode in arguments.modes.split(","):
            how = f"{arguments.device}-{arguments.threads}-{arguments.batches}-{arguments.share}-{arguments.seconds:g}"
            path = arguments.output / f"{model}-{mode}-{how}.jsonl"
            if not path.is_file():
                try:
                    found = measure(model, mode, batches, arguments.share, arguments.seconds, torch.device(arguments.device))
                except ExportError as error:
                    print(f"{mode}: {error}", file=sys.stderr)
                    continue
                path.write_text("".join(cell.to_json() + "\n" for cell in found))
            cells += [Cell.from_json(line) for line in path.read_text().splitlines()]
    print(f"{hardware()}, {arguments.threads} threads; times as fast as dense (quartiles), share of the FLOPs' speed-up")
    print(table(cells))


if __name__ == "__main__":
    main()
