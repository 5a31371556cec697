"""Latency on the device that trials run on: the table before the first proposal, and the models that come into question at the end."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import ray

from autoslim.core.job import SearchJob
from autoslim.core.result import TrialResult
from autoslim.core.run_folder import RunFolder
from autoslim.cost import LatencyRequest, LatencyTable
from autoslim.export.artifact import LatencyReport, TimedReport
from autoslim.export.profiling import check_in_subprocess, kept_table, measure_table_in_subprocess
from autoslim.export.profiling.calibration import candidates_of_methods, report, request_of
from autoslim.models import DenseModel
from autoslim.search import Proposer, choose
from autoslim.store import Store
from workers.progress.console import Terminal
from workers.ray_errors import unwrapped_task_errors
from workers.search.base_model import threads, trial_resources


@ray.remote(max_retries=2)  # type: ignore[untyped-decorator]
def _measure(request: str, folder: str, threads: int) -> str:
    measure = partial(measure_table_in_subprocess, threads=threads)
    return kept_table(Path(folder), LatencyRequest.from_json(request), measure, threads=threads).to_json()


@ray.remote(max_retries=2)  # type: ignore[untyped-decorator]
def _check(folder: str, dense: str, table: dict[str, Any], limit_ms: float) -> str:
    return check_in_subprocess(Path(folder), Path(dense), **table, limit_ms=limit_ms).to_json()


def search_request(job: SearchJob, dense: DenseModel, proposer: Proposer) -> LatencyRequest:
    methods = {name: ranges for name, ranges in proposer.space.methods.items() if name in proposer.feasibility}
    candidates = candidates_of_methods(methods, dense.shape, class_query=job.class_query)
    return request_of(dense, job.limits, candidates, class_query=job.class_query)


def measure_on_cluster(job: SearchJob, request: LatencyRequest, output: RunFolder) -> LatencyTable:
    """With a trial's resources; at once where an earlier run has left the table, which lies in the cache.

    Raises:
        JobError: where it cannot be measured.
    """
    task = _measure.options(num_cpus=trial_resources(job).cpu, num_gpus=trial_resources(job).gpu, name=f"{job.id} latency")
    table = LatencyTable.from_json(_result(task.remote(request.to_json(), str(output.cache), threads(job))))
    output.write_latency(table)
    return table


def choose_measured(
    job: SearchJob,
    store: Store,
    budgets: dict[str, int],
    table: LatencyTable | None,
    *,
    output: RunFolder,
    base: Path,
    terminal: Terminal,
) -> tuple[dict[str, TrialResult], dict[int, LatencyReport]]:
    """The trial for each budget, and its latency as measured; a trial above the limit gives way to the next.

    Raises:
        JobError: where one cannot be measured.
    """
    reports: dict[int, LatencyReport] = {}
    while True:
        chosen = choose(store.trials(job.id), budgets, job.limits)
        waiting = {result.number: result for result in chosen.values() if result.number not in reports}
        if table is None or not waiting:
            return chosen, reports
        for number, result in waiting.items():
            assert result.artifact is not None
            folder = output.root / result.artifact
            reports[number] = report(folder, table, _timed(job, table, folder, base))
            store.set_latency(job.id, number, reports[number].timed.ms)
            terminal.say(_kept(number, reports[number], job.limits.latency_ms or 0.0))


def _kept(number: int, found: LatencyReport, limit: float) -> str:
    told = f"trial {number} takes {found.timed.ms:.4g} ms of {limit:g} ms ({found.predicted_ms:.4g} ms were predicted)"
    return told if found.timed.ms <= limit else f"{told}: it is not handed over"


def _timed(job: SearchJob, table: LatencyTable, folder: Path, base: Path) -> TimedReport:
    task = _check.options(
        num_cpus=trial_resources(job).cpu, num_gpus=trial_resources(job).gpu, name=f"{job.id} times {folder.parent.name}"
    )
    how = {"batch": table.batch, "mode": table.mode, "threads": table.threads}
    return TimedReport.from_json(_result(task.remote(str(folder), str(base), how, job.limits.latency_ms)))


def _result(task: ray.ObjectRef) -> str:
    with unwrapped_task_errors("the latency could not be measured"):
        return str(ray.get(task))
