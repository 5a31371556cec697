"""The slimmed models that correct a latency table, and the report of a prediction beside the measurement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from autoslim.core.constraints import CostLimits
from autoslim.core.plan import Plan
from autoslim.core.recipe import Step
from autoslim.core.shape import ViTShape
from autoslim.cost import CalibrationModel, LatencyRequest, LatencyTable, predict
from autoslim.errors import InfeasibleError, UnsupportedModelError
from autoslim.export.artifact import LatencyReport, TimedReport, load_config
from autoslim.methods import METHODS, Ranges, solve
from autoslim.models import DenseModel

SHARES = (0.9, 0.7, 0.5, 0.35)
"""Shares of the dense model's FLOPs at which each method's slimmed model is measured whole, to correct the sum of its parts."""


def request_of(dense: DenseModel, limits: CostLimits, models: Iterable[CalibrationModel], *, class_query: bool) -> LatencyRequest:
    return LatencyRequest(
        name=dense.architecture.name,
        args=dict(dense.architecture.args),
        batch=limits.batch,
        mode=limits.mode,
        class_query=class_query,
        candidates=tuple(models),
    )


def calibration_models(methods: dict[str, Ranges], shape: ViTShape, *, class_query: bool) -> Iterator[CalibrationModel]:
    """Each method's slimmed models at `SHARES`, with the space's default knobs, as far as the method reaches these shares."""
    start = Plan.dense(shape, class_query=class_query)
    dense = predict(shape, Plan.dense(shape)).total
    for name, ranges in methods.items():
        knobs = {name: knob.default for name, knob in ranges.items() if knob.kind != "layer"}
        for share in SHARES:
            # Not every method reaches every share; beyond its measured ones a correction is constant.
            try:
                found = solve(METHODS[name], shape, start, knobs, int(share * dense), ranges=ranges)
            except (InfeasibleError, UnsupportedModelError):
                continue
            yield CalibrationModel(steps=(Step(method=name, knobs=found.knobs),), plan=found.plan)


def report(folder: Path, table: LatencyTable, timed: TimedReport) -> LatencyReport:
    """The latency of the model in `folder`, predicted by `table`, beside the measurement `timed`."""
    config = load_config(folder)
    method = config.recipe.method
    predicted = table(config.plan, method)
    return LatencyReport(
        predicted_ms=predicted,
        correction=predicted / table.parts(config.plan),
        dense_ms=table(Plan.dense(table.shape)),
        timed=timed,
    )
