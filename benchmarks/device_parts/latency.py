"""How far the latency table's predictions are from what models take that it has not seen."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from pathlib import Path

from latency_table import unseen

from autoslim.core.constraints import CostLimits
from autoslim.core.plan import Plan
from autoslim.cost import predict
from autoslim.export.profiling.calibration import calibration_models, request_of
from autoslim.export.profiling.profile_parts import measure_table
from autoslim.methods import METHODS
from device_parts.extent import Clock, Extent, Finding, dense_model


def findings(extent: Extent, clock: Clock, scratch: Path) -> Iterator[Finding]:
    dense = dense_model(extent)
    limits = CostLimits(latency_ms=1.0, batch=extent.one, mode="eager")
    known = {name: METHODS[name].ranges for name in extent.methods}
    # Half of what a search measures, and one other model of each method: there is no more time.
    seen = itertools.islice(calibration_models(known, dense.shape, class_query=False), None, None, 2)
    table = measure_table(request_of(dense, limits, seen, class_query=False))
    # Measured after the table's own models: the table knows none of them.
    others = {model.recipe: model for model in unseen(dense.shape) if model.recipe in known}
    judged = measure_table(request_of(dense, limits, others.values(), class_query=False), table)
    total, errors = predict(dense.shape, Plan.dense(dense.shape)).total, []
    for found in judged.calibrations[len(table.calibrations) :]:
        predicted = found.parts_ms * table.correction(found.recipe, found.parts_ms)
        errors.append(abs(predicted / found.measured_ms - 1))
        numbers = {"predicted ms": predicted, "measured ms": found.measured_ms, "of the FLOPs": found.flops / total}
        yield Finding(what=f"{found.recipe}, batch {extent.one}", numbers=numbers | {"error": errors[-1]})
    if missing := known.keys() - others.keys():
        yield Finding(what=f"{', '.join(sorted(missing))}, batch {extent.one}", skipped="no model to judge by is of this method")
    if not errors:
        return
    yield Finding(
        what=f"all, batch {extent.one}", numbers={"median error": statistics.median(errors), "largest error": max(errors)}
    )
