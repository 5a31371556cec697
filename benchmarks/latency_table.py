"""How well the latency table predicts the latency of a pruned model on this machine.

    python benchmarks/latency_table.py --output runs/latency [--models tiny,deit_tiny_patch16_224] [--batch 1] [--threads 1] [--mode eager]

For every model a table is measured and calibrated with the pruned models that a search would use (every method at 90, 70, 50 and 35 % of
the FLOPs). Other pruned models, with FLOPs and knobs that the table has not seen, are then measured as a whole, interleaved with the
dense model, and compared with the predictions. Weights are random: latency does not depend on them. Results in --output are reused.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from autoslim.core.constraints import CostLimits
from autoslim.core.job import ModelSpec
from autoslim.core.plan import Plan
from autoslim.core.recipe import Step
from autoslim.core.shape import ViTShape
from autoslim.cost import CalibrationModel, LatencyTable, predict
from autoslim.errors import InfeasibleError
from autoslim.export.profiling import measure_table_in_subprocess
from autoslim.export.profiling.calibration import calibration_models, request_of
from autoslim.methods import METHODS, solve
from autoslim.models import DenseModel, create_dense

TINY: dict[str, Any] = {"img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 6, "num_heads": 3, "num_classes": 10}
UNSEEN: list[tuple[str, float, dict[str, Any]]] = [
    ("life_regression", 0.85, {}),
    ("life_regression", 0.6, {"drops": 1}),
    ("life_regression", 0.45, {"drops": 4}),
    ("patch_slimming", 0.85, {}),
    ("patch_slimming", 0.6, {"counts": "pyramid", "taper": 0.0}),
    ("patch_slimming", 0.42, {}),
    ("dps", 0.85, {}),
    ("dps", 0.6, {"selector": "mlp"}),
    ("dps", 0.42, {}),
    ("sit", 0.85, {}),
    ("sit", 0.62, {"stages": 1}),
    ("sit", 0.56, {}),
    ("vit_slim", 0.85, {}),
    ("vit_slim", 0.6, {"width_multiple": 8}),
    ("vit_slim", 0.6, {"patches": "down"}),
    ("vit_slim", 0.42, {"mlp_give": 0.6}),
    ("merge", 0.85, {}),
    ("merge", 0.55, {}),
    ("width", 0.85, {}),
    ("width", 0.55, {"width_multiple": 8}),
]


def dense_of(name: str) -> DenseModel:
    tiny = name == "tiny"
    spec = ModelSpec(name="deit_tiny_patch16_224" if tiny else name, weights="scratch", args=TINY if tiny else {})
    return create_dense(spec)


def unseen(shape: ViTShape) -> list[CalibrationModel]:
    start = Plan.dense(shape)
    dense = predict(shape, start).total
    found = []
    for method, share, knobs in UNSEEN:
        known = {name: value for name, value in knobs.items() if name in METHODS[method].ranges}
        try:
            solved = solve(METHODS[method], shape, start, known, int(share * dense))
        except InfeasibleError:
            continue
        found.append(CalibrationModel(steps=(Step(method=method, knobs=solved.knobs),), plan=solved.plan))
    return found


def measure(name: str, *, batch: int, threads: int, mode: str) -> tuple[LatencyTable, LatencyTable]:
    """The table of a search, and the same table with measurements of the unseen models after its own."""
    dense = dense_of(name)
    limits = CostLimits(latency_ms=1.0, batch=batch, mode=mode)
    ranges = {method: METHODS[method].ranges for method in METHODS}
    seen = calibration_models(ranges, dense.shape, class_query=False)
    table = measure_table_in_subprocess(request_of(dense, limits, seen, class_query=False), threads=threads)
    measured = measure_table_in_subprocess(
        request_of(dense, limits, unseen(dense.shape), class_query=False), table, threads=threads
    )
    return table, measured


def render(name: str, table: LatencyTable, measured: LatencyTable) -> str:
    dense = predict(table.shape, Plan.dense(table.shape)).total
    lines = [f"**{name}**, {table.place}, batch {table.batch}", ""]
    lines += ["| model | FLOPs | predicted, ms | measured, ms | predicted over measured |", "|---|---|---|---|---|"]
    errors = []
    for found in measured.calibrations[len(table.calibrations) :]:
        predicted = found.parts_ms * table.correction(found.recipe, found.parts_ms)
        errors.append(predicted / found.measured_ms)
        lines.append(
            f"| {found.recipe} | {found.flops / dense:.0%} | {predicted:.4g} | {found.measured_ms:.4g} | {errors[-1]:.3f} |"
        )
    own = [found.correction for found in table.calibrations]
    lines += [
        "",
        f"Median {statistics.median(errors):.3f}, from {min(errors):.3f} to {max(errors):.3f}. Whole models took {min(own):.3f} to "
        f"{max(own):.3f} times the sum of their parts, the dense one {own[0]:.3f} times.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--models", default="tiny,deit_tiny_patch16_224")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--mode", default="eager")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name in arguments.models.split(","):
        stem = f"{name}-{arguments.mode}-{arguments.threads}-{arguments.batch}"
        paths = [arguments.output / f"{stem}-{part}.json" for part in ("table", "judged")]
        if not all(path.is_file() for path in paths):
            for path, found in zip(
                paths, measure(name, batch=arguments.batch, threads=arguments.threads, mode=arguments.mode), strict=True
            ):
                path.write_text(found.to_json(indent=1))
        print(render(name, *(LatencyTable.from_json(path.read_text()) for path in paths)) + "\n")


if __name__ == "__main__":
    main()
