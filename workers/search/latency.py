"""Latency on the device that trials run on: the table before the first trial, and the measured models at the end."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import ray

from autoslim.core.job import SearchJob
from autoslim.core.result import TrialResult
from autoslim.core.run_folder import RunFolder
from autoslim.core.selection import best_within_budgets
from autoslim.cost import LatencyRequest, LatencyTable
from autoslim.export.artifact import LatencyReport, TimedReport
from autoslim.export.profiling import LATENCY_TABLES, check_in_subprocess, kept_table, measure_table_in_subprocess
from autoslim.export.profiling.calibration import calibration_models, report, request_of
from autoslim.models import DenseModel
from autoslim.search import Proposer
from autoslim.storage.mirror import NO_MIRROR, Mirror
from autoslim.store import Store
from workers.progress.console import Console
from workers.search.dense_models import DenseModels
from workers.search.prepare import PreparedSearch
from workers.search.resources import trial_resources, trial_threads
from workers.search.task_watch import TaskWatch, WatchedTask


@ray.remote(max_retries=2)  # type: ignore[untyped-decorator]
def _measure_table(watch: TaskWatch, request: str, folder: str, threads: int) -> str:
    mirror = Mirror.of(watch.output)
    cache, measure = mirror.path(folder), partial(measure_table_in_subprocess, threads=threads)
    with watch.watching() as stalls:
        with stalls.working():
            # Another node of the same hardware may have measured it.
            mirror.fetch_files(cache, LATENCY_TABLES)
        # The process that measures has a limit of its own.
        table = kept_table(cache, LatencyRequest.from_json(request), measure, threads=threads)
        with stalls.working():
            mirror.keep_files(cache, LATENCY_TABLES)
    return table.to_json()


@ray.remote(max_retries=2)  # type: ignore[untyped-decorator]
def _measure_model(watch: TaskWatch, folder: str, dense: str, table: dict[str, Any], limit_ms: float) -> str:
    mirror = Mirror.of(watch.output)
    with watch.watching() as stalls:
        with stalls.working():
            models = mirror.fetched(folder), mirror.fetched(dense)
        return check_in_subprocess(*models, **table, limit_ms=limit_ms).to_json()


def search_request(job: SearchJob, dense: DenseModel, proposer: Proposer) -> LatencyRequest:
    """What the table must be able to predict: the parts of every plan that the search space can draw."""
    # Chains are predicted from their methods' corrections, so that no chain has to be measured.
    used = {name for label in proposer.feasibility for name in proposer.space.units[label]}
    methods = {name: ranges for name, ranges in proposer.space.methods.items() if name in used}
    models = calibration_models(methods, dense.shape, class_query=job.class_query)
    return request_of(dense, job.limits, models, class_query=job.class_query)


def measure_on_cluster(job: SearchJob, request: LatencyRequest, output: RunFolder, *, mirror: Mirror = NO_MIRROR) -> LatencyTable:
    """The table, measured with a trial's resources. Nothing is measured where the cache has a table for this request.

    Raises:
        JobError: it cannot be measured.
    """
    watch = TaskWatch.of("measure latency table", job, output, mirror)
    given = request.to_json(), mirror.name(output.cache), trial_threads(job)
    table = LatencyTable.from_json(_run(_measure_table, job, watch, *given))
    output.write_latency(table)
    mirror.keep_file(output.latency)
    return table


def select_within_latency(
    prepared: PreparedSearch, store: Store, *, dense: DenseModels, console: Console
) -> tuple[dict[str, TrialResult], dict[int, LatencyReport]]:
    """The trial for each label of a budget or of the goal, and by the trial's number its measured latency, which is empty where none is
    limited.

    Raises:
        JobError: a model cannot be measured.
    """
    job, table = prepared.job, prepared.proposer.timer
    floor = job.floor(dense.facts.dense_accuracy)
    reports: dict[int, LatencyReport] = {}
    while True:
        selected = best_within_budgets(store.trials(job.id), prepared.budgets, job.limits, floor)
        unmeasured = {result.number: result for result in selected.values() if result.number not in reports}
        if table is None or not unmeasured:
            return selected, reports
        # A measured latency replaces the predicted one, so that a model above the limit gives way to the next best one, which has
        # to be measured in turn.
        for number, result in unmeasured.items():
            assert result.artifact is not None
            folder = prepared.output.root / result.artifact
            prepared.mirror.refresh(folder)
            names = [prepared.mirror.name(one) for one in (folder, dense.folder(result.recipe.model))]
            watch = TaskWatch.of(f"measure latency of trial {number:03d}", job, prepared.output, prepared.mirror)
            reports[number] = report(folder, table, _measure(job, table, watch, names))
            store.set_latency(job.id, number, reports[number].timed.ms)
            console.on_message(_measured_line(number, reports[number], job.limits.latency_ms or 0.0))


def _measured_line(number: int, found: LatencyReport, limit: float) -> str:
    line = f"trial {number} takes {found.timed.ms:.4g} ms of {limit:g} ms ({found.predicted_ms:.4g} ms were predicted)"
    return line if found.timed.ms <= limit else f"{line}: too slow, it is not selected"


def _measure(job: SearchJob, table: LatencyTable, watch: TaskWatch, folders: Sequence[str]) -> TimedReport:
    """`folders` are those of the model and of the dense one, as the nodes know them (`Mirror.name`)."""
    settings = {"batch": table.batch, "mode": table.mode, "threads": table.threads}
    return TimedReport.from_json(_run(_measure_model, job, watch, *folders, settings, job.limits.latency_ms))


def _run(function: Any, job: SearchJob, watch: TaskWatch, *given: Any) -> str:
    """What `function` returns of `watch` and `given`. It has a trial's resources: a latency holds for the CPUs or the GPU that it was
    measured with."""
    resources = trial_resources(job)
    task = function.options(num_cpus=resources.cpu, num_gpus=resources.gpu, name=f"{job.id} {watch.what}")
    return str(WatchedTask.begin(partial(task.remote, watch, *given), watch).result("the latency could not be measured"))
