"""Latency for a request without a search: its table, and whether the finished model keeps to the limit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from autoslim.core.budget import Budget
from autoslim.core.constraints import CostLimits
from autoslim.core.plan import Plan
from autoslim.core.shape import ViTShape
from autoslim.cost import CalibrationModel, LatencyTable, predict
from autoslim.errors import BudgetError, JobError
from autoslim.export.artifact import LatencyReport
from autoslim.export.profiling import check_in_subprocess, kept_table, measure_table_in_subprocess
from autoslim.export.profiling.calibration import SHARES, report, request_of
from autoslim.models import DenseModel
from autoslim.slimming.request import PreparedSlim, SlimJob, solve_steps, solved

_TIGHTENINGS = 3


def calibration_models_of_job(job: SlimJob, shape: ViTShape) -> Iterator[CalibrationModel]:
    """What the request's methods and knobs make of the model at `SHARES`, where they reach them."""
    dense = predict(shape, Plan.dense(shape)).total
    for share in SHARES:
        try:
            steps, plan = solve_steps(
                job.replace(budget=Budget(label=f"{share:.0%}", share=share), limits=CostLimits(), first=None),
                shape,
                int(share * dense),
            )
        except BudgetError:
            continue
        yield CalibrationModel(steps=steps, plan=plan)


def measure_job(job: SlimJob, dense: DenseModel, folder: Path) -> LatencyTable:
    """The table for a request without a search, measured on this machine; it is kept in `folder`.

    Raises:
        JobError: where it cannot be measured.
    """
    models = calibration_models_of_job(job, dense.shape)
    request = request_of(dense, job.limits, models, class_query=job.class_query)
    threads = torch.get_num_threads()
    return kept_table(folder, request, partial(measure_table_in_subprocess, threads=threads), threads=threads)


def tightened(prepared: PreparedSlim) -> PreparedSlim:
    """Measures the model that the request is solved for as a whole, before it is trained. Where it is above the limit, the measurement
    corrects the table and the request is solved again.

    Raises:
        BudgetError: where the corrected table leaves nothing within the limit.
        JobError: where it cannot be measured.
    """
    job, limit = prepared.job, prepared.job.limits.latency_ms
    assert prepared.table is not None
    assert limit is not None
    for _ in range(_TIGHTENINGS):
        model = CalibrationModel(steps=prepared.recipe.steps, plan=prepared.plan)
        request = request_of(prepared.dense, job.limits, [model], class_query=job.class_query)
        table = measure_table_in_subprocess(request, prepared.table, threads=prepared.table.threads)
        if table.calibrations[-1].measured_ms <= limit:
            return prepared
        prepared = solved(dataclasses.replace(prepared, table=table))
    return prepared


def timed_here(folder: Path, dense: Path, table: LatencyTable, limits: CostLimits) -> LatencyReport:
    """The predicted and the measured latency of the model in `folder`, measured as the table was.

    Raises:
        JobError: where it cannot be measured.
    """
    try:
        timed = check_in_subprocess(
            folder, dense, batch=table.batch, mode=table.mode, threads=table.threads, limit_ms=limits.latency_ms
        )
    except JobError as error:
        raise JobError(f"the latency of {folder} could not be measured: {error}") from error
    return report(folder, table, timed)
