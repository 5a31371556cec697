"""Latency for a request: which cut models the table is corrected by, and whether what is handed over keeps the limit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import torch

from autoslim.artifact import LatencyReport, TimedReport, load_config
from autoslim.budget import Budget
from autoslim.errors import BudgetError, InfeasibleError, JobError, UnsupportedModelError
from autoslim.flops import predict
from autoslim.latency import Candidate, LatencyRequest, LatencyTable
from autoslim.limits import Limits
from autoslim.methods import METHODS, Ranges, solve
from autoslim.plan import Plan
from autoslim.recipe import Step
from autoslim.shape import ViTShape
from autoslim.speed import check_apart, kept_table, measure_table_apart
from autoslim.training.slim import PreparedSlim, SlimJob, solve_steps, solved
from autoslim.vit import DenseModel

SHARES = (0.9, 0.7, 0.5, 0.35)
"""Of the dense model's FLOPs: what cut models are measured whole at, to correct the sum of their parts."""

_TIGHTENINGS = 3


def request_of(dense: DenseModel, limits: Limits, candidates: Iterable[Candidate], *, class_query: bool) -> LatencyRequest:
    return LatencyRequest(
        name=dense.architecture.name,
        args=dict(dense.architecture.args),
        batch=limits.batch,
        mode=limits.mode,
        class_query=class_query,
        candidates=tuple(candidates),
    )


def candidates_of_job(job: SlimJob, shape: ViTShape) -> Iterator[Candidate]:
    """What the request's methods and knobs make of the model at `SHARES`, where they reach them."""
    dense = predict(shape, Plan.dense(shape)).total
    for share in SHARES:
        try:
            steps, plan = solve_steps(
                job.replace(budget=Budget(label=f"{share:.0%}", share=share), limits=Limits(), first=None),
                shape,
                int(share * dense),
            )
        except BudgetError:
            continue
        yield Candidate(steps=steps, plan=plan)


def candidates_of_methods(methods: dict[str, Ranges], shape: ViTShape, *, class_query: bool) -> Iterator[Candidate]:
    """What each method of a space makes of the model at `SHARES` with the space's usual knobs, where it reaches them."""
    start = Plan.dense(shape, class_query=class_query)
    dense = predict(shape, Plan.dense(shape)).total
    for name, ranges in methods.items():
        knobs = {knob: usual.default for knob, usual in ranges.items() if usual.kind != "layer"}
        for share in SHARES:
            try:
                found = solve(METHODS[name], shape, start, knobs, int(share * dense), ranges=ranges)
            except (InfeasibleError, UnsupportedModelError):
                continue
            yield Candidate(steps=(Step(method=name, knobs=found.knobs),), plan=found.plan)


def measure_job(job: SlimJob, dense: DenseModel, folder: Path) -> LatencyTable:
    """The table for a request without a search, measured on this machine; it is kept in `folder`.

    Raises:
        JobError: where it cannot be measured.
    """
    candidates = candidates_of_job(job, dense.shape)
    request = request_of(dense, job.limits, candidates, class_query=job.class_query)
    threads = torch.get_num_threads()
    return kept_table(folder, request, partial(measure_table_apart, threads=threads), threads=threads)


def tightened(prepared: PreparedSlim) -> PreparedSlim:
    """The model that the request comes to, measured whole before it is trained; where it is above the limit the table is corrected by it
    and the request solved again.

    Raises:
        BudgetError: where the corrected table leaves nothing within the limit.
        JobError: where it cannot be measured.
    """
    job, limit = prepared.job, prepared.job.limits.latency_ms
    assert prepared.table is not None
    assert limit is not None
    for _ in range(_TIGHTENINGS):
        candidate = Candidate(steps=prepared.recipe.steps, plan=prepared.plan)
        request = request_of(prepared.dense, job.limits, [candidate], class_query=job.class_query)
        table = measure_table_apart(request, prepared.table, threads=prepared.table.threads)
        if table.calibrations[-1].measured_ms <= limit:
            return prepared
        prepared = solved(dataclasses.replace(prepared, table=table))
    return prepared


def timed_here(folder: Path, dense: Path, table: LatencyTable, limits: Limits) -> LatencyReport:
    """What was foretold of the model in `folder`, beside what it takes here, as the table was measured.

    Raises:
        JobError: where it cannot be measured.
    """
    try:
        timed = check_apart(folder, dense, batch=table.batch, mode=table.mode, threads=table.threads, limit_ms=limits.latency_ms)
    except JobError as error:
        raise JobError(f"the latency of {folder} could not be measured: {error}") from error
    return report(folder, table, timed)


def report(folder: Path, table: LatencyTable, timed: TimedReport) -> LatencyReport:
    config = load_config(folder)
    method = config.recipe.method
    predicted = table(config.plan, method)
    return LatencyReport(
        predicted_ms=predicted,
        correction=predicted / table.parts(config.plan),
        dense_ms=table(Plan.dense(table.shape)),
        timed=timed,
    )
