"""The search's driver: from a job to models within their budgets, and on from where an earlier attempt ended.

The store decides which trial comes next and, on `resume`, which are run again; Ray Tune's own snapshots are never read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import signal
import time
from pathlib import Path

from autoslim.core.files import disk_full_error, is_disk_full, write_atomically
from autoslim.core.folder_lock import FolderLock, FolderUse
from autoslim.core.job import SearchJob
from autoslim.core.plan import Plan
from autoslim.core.result import BaseFacts
from autoslim.core.run_folder import RunFolder
from autoslim.core.urls import default_url
from autoslim.errors import AutoslimError, JobError
from autoslim.progress.display import Display
from autoslim.report import render_front
from autoslim.report.search_report.environment import write_environment
from autoslim.report.tracking import BackgroundSync, MlflowSync
from autoslim.search import Explanation, disk_use, explain, make_pruner, most_work
from autoslim.store import PATIENCE_SECONDS, JobState, Store
from autoslim.store.export import write_front_parquet, write_trials_parquet
from workers.progress.callbacks import SearchCallback, SearchInfo, SearchStage
from workers.progress.console import Console
from workers.progress.cost import cost_of, output_size, spent_seconds
from workers.progress.cost_recorder import CostRecorder, handover_recorded
from workers.progress.eta import EtaEstimator
from workers.progress.metrics import SearchMetrics, ray_gauges
from workers.progress.ray_dashboard import DashboardTasks
from workers.search.base_model import base_names
from workers.search.cluster import Cluster, connect
from workers.search.coordinator import Coordinator
from workers.search.dense_models import DenseModels, adapt_dense_models
from workers.search.finalize import SelectedModel, Selection, delete_unselected_models, finalize_models
from workers.search.goal import explain_goal
from workers.search.kept_output import KeptOutput, kept_output
from workers.search.latency import measure_on_cluster, search_request, select_within_latency
from workers.search.nodes import usable_nodes
from workers.search.prepare import PreparedSearch, other_images, prepare, with_floor, with_latency_table
from workers.search.report import write_search_report
from workers.search.resources import (
    busy_machine,
    scarcest_node,
    trial_ranks,
    trial_resources,
    trial_threads,
    with_default_resources,
)
from workers.search.signals import GracefulShutdown
from workers.search.slots import Slots
from workers.search.spending_guard import SpendingGuard, handover_images
from workers.search.summary import Summary, summarize
from workers.search.tune_run import run_trials
from workers.search.tune_searcher import CoordinatorSearcher
from workers.search.tune_trainable import TrialTrainable
from workers.search.warm_start import apply_warm_start

_log = logging.getLogger(__name__)

_LAST_SYNC_SECONDS = 60.0
"""How long the end of a search waits for MLflow: a server that does not answer must not keep finished models from their user."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Attempt:
    """What the steps of one attempt at a search share; `slots` says how many trials run at a time."""

    prepared: PreparedSearch
    store: Store
    console: Console
    callback: SearchCallback
    kept: KeptOutput
    shutdown: GracefulShutdown
    slots: Slots
    spending: SpendingGuard

    @property
    def job(self) -> SearchJob:
        return self.prepared.job


def run_search(
    job: SearchJob,
    *,
    resume: bool = False,
    storage: str | None = None,
    callback: SearchCallback | None = None,
    display: Display | None = None,
) -> Summary:
    """Runs the job to its end, or with `resume` the rest of it.

    `storage` is the URL of a store that must not be written into the job's record, because it holds a password. `display` shows the
    progress, and is entered by the caller; by default each event is a line on stderr.

    Raises:
        AutoslimError: with the `exit_code` of what went wrong; finished trials stay in the store, and `resume` continues from them.
    """
    # No other process may begin or resume a search in this folder meanwhile.
    with FolderLock(Path(job.output), FolderUse.SEARCH):
        callback = callback or SearchCallback()
        console = Console(job, display, forward=callback.on_message)
        with kept_output(job, resume=resume, tell=console.on_message) as kept:
            return _run_locked(job, kept, resume=resume, storage=storage, callback=callback, console=console)


def _run_locked(
    job: SearchJob, kept: KeptOutput, *, resume: bool, storage: str | None, callback: SearchCallback, console: Console
) -> Summary:
    began, output = time.monotonic(), RunFolder(Path(job.output))
    # Before the images are prepared, which may take minutes: a folder that cannot be written is refused at once.
    output.claim(need=0, resume=resume)
    console.on_step("preparing")
    prepared = prepare(job, output.cache, tell=console.on_images, watch=console.watch_images())
    # Of an output in a store only what is handed over is on this machine's disk, too.
    output.claim(need=_peak_bytes(prepared) if job.output_uri is None else 0, resume=resume)
    output.write_job(job)
    prepared = _with_kept_images(prepared, kept, console)
    if busy := busy_machine(job):
        console.write(busy)
    try:
        with Store(storage or job.storage or default_url(job.output), patience=PATIENCE_SECONDS) as store:
            summary = _run_attempt(prepared, store, callback, console, kept, resume=resume, began=began)
            cost = summary.cost.replace(seconds=time.monotonic() - began, bytes=output_size(output.root, kept.mirror))
            return summary.replace(cost=cost)
    except (OSError, AutoslimError) as error:
        if is_disk_full(error):
            raise disk_full_error(output.root, "continue with --resume") from error
        raise


def _with_kept_images(prepared: PreparedSearch, kept: KeptOutput, console: Console) -> PreparedSearch:
    """With prepared images that each node brings from the store once, where it cannot prepare them by itself."""
    mirror = kept.mirror
    if mirror.uri is None:
        return prepared
    kept.keep()
    console.on_step(f"keeping the prepared images in {mirror.uri}")
    probe = None if prepared.probe is None else prepared.probe.kept_in(mirror)
    return dataclasses.replace(prepared, dataset=prepared.dataset.kept_in(mirror), probe=probe)


def _peak_bytes(prepared: PreparedSearch) -> int:
    return disk_use(
        prepared.job,
        most_work(prepared.job),
        parameters=prepared.dense.parameters,
        budget_share=prepared.mean_budget_share,
        others=[dense.parameters for dense in prepared.others],
    ).peak


def _run_attempt(
    prepared: PreparedSearch,
    store: Store,
    callback: SearchCallback,
    console: Console,
    kept: KeptOutput,
    *,
    resume: bool,
    began: float,
) -> Summary:
    """The search between the store's record of its beginning and that of its end, whichever end it is."""
    job = prepared.job
    if not resume or not store.has_job(job.id):
        store.create_job(job)
    if job.output_uri is not None:
        store.set_output(job.id, job.output)
    store.begin_attempt(job.id)
    callback.on_attempt_start(store.trials(job.id))
    sync = MlflowSync(store, job.id)
    background = BackgroundSync(sync).start()
    try:
        console.on_step("connecting to Ray")
        with connect(job.address, name=job.id) as cluster, GracefulShutdown() as shutdown:
            summary = _search(_begin(prepared, store, cluster, callback, console, kept, shutdown, began))
    except BaseException as error:
        # The job ends here. A second error, while the first one is recorded, must not hide it.
        stopped = isinstance(error, KeyboardInterrupt)
        with contextlib.suppress(AutoslimError):
            store.set_state(job.id, JobState.STOPPED if stopped else JobState.FAILED, error=None if stopped else str(error))
        # Before the last sync, which logs the report, too.
        with contextlib.suppress(AutoslimError, OSError):
            _write_tables(prepared, store)
            kept.keep()
        background.close(_LAST_SYNC_SECONDS)
        raise
    store.set_state(job.id, JobState.COMPLETE)
    try:
        _write_tables(prepared, store)
        kept.keep()
    finally:
        # Only now: the last sync logs the report, too.
        logged = background.close(_LAST_SYNC_SECONDS)
    return summary.replace(tracking_uri=sync.uri, logged=logged)


def _begin(
    prepared: PreparedSearch,
    store: Store,
    cluster: Cluster,
    callback: SearchCallback,
    console: Console,
    kept: KeptOutput,
    shutdown: GracefulShutdown,
    began: float,
) -> _Attempt:
    """With what a trial takes of this cluster, which the console says."""
    node = scarcest_node(cluster.machines)
    job = with_default_resources(prepared.job, cpus=node.cpus, gpus=node.gpus)
    resources = trial_resources(job)
    cluster.check_fits(resources, concurrency=job.concurrency)
    slots = Slots(resources, most=job.trials, concurrency=job.concurrency, follows=cluster.joined, nodes=usable_nodes)
    console.write(
        f"job {job.id}: {job.trials} trials of {job.training.epochs:g} epochs, {slots.running} at a time, on Ray {cluster.address}"
    )
    for line in prepared.data_lines:
        console.write(f"data: {line}")
    for line in prepared.goal_lines:
        console.write(f"goal: {line}")
    console.write(prepared.proposer.describe_prior())
    write_environment(prepared.output, prepared.dataset, resources)
    if cluster.dashboard:
        console.write(f"Ray dashboard: {cluster.dashboard} ({cluster.login}); each running trial is a task there")
    prepared = dataclasses.replace(prepared, job=job)
    spending = SpendingGuard(job, store, began=began, handover_images=handover_images(prepared))
    if spending.limit.given:
        console.on_message(f"limits: {spending.announcement()}")
    return _Attempt(
        prepared=prepared,
        store=store,
        console=console,
        callback=callback,
        kept=kept,
        shutdown=shutdown,
        slots=slots,
        spending=spending,
    )


def _search(attempt: _Attempt) -> Summary:
    # The latency table first: without it the proposer does not know which recipes keep to the latency.
    attempt = _with_latency(attempt)
    # Then earlier searches: they may answer every budget, and then neither a dense model nor a trial is trained.
    attempt = _with_warm_start(attempt)
    job, store = attempt.job, attempt.store
    _report_unused_starts(attempt)
    data = attempt.prepared.dataset.report.facts
    if said := other_images(store.job(job.id).base, data):
        attempt.console.on_message(said)
    dense = adapt_dense_models(attempt.prepared, attempt.console, check=attempt.spending.check)
    facts = dense.facts.replace(data=data)
    if (table := attempt.prepared.proposer.timer) is not None:
        facts = facts.replace(latency_ms=table(Plan.dense(attempt.prepared.dense.shape)))
    store.set_base(job.id, facts)
    attempt = dataclasses.replace(attempt, prepared=with_floor(attempt.prepared, facts))
    attempt.callback.on_stage_start(SearchStage.SEARCHING)
    callbacks = _start_callbacks(attempt, facts)
    if attempt.prepared.proposer.targets:
        _run_trials(attempt, dense, facts, callbacks)
    for callback in (attempt.console, attempt.callback):
        callback.on_stage_start(SearchStage.FINALIZING)
    with handover_recorded(store, job.id):
        models, reasons = _finalize(attempt, dense)
    stored = store.job(job.id)
    cost = cost_of(job, seconds=0.0, busy_seconds=spent_seconds(store, stored), size=0)
    results = store.trials(job.id)
    attempt.spending.save()
    return summarize(
        attempt.prepared,
        results,
        models,
        facts=facts,
        reasons=reasons,
        shared=stored.shared,
        cost=cost,
        hours=attempt.spending.seconds() / 3600,
        ended=attempt.spending.ended,
    )


# Before the first trial


def _report_unused_starts(attempt: _Attempt) -> None:
    for budget, model, reason in attempt.prepared.proposer.unused_starts:
        attempt.console.on_message(f"no recipe for {budget} starts from {model}: {reason}")


def _with_latency(attempt: _Attempt) -> _Attempt:
    """With a table that predicts a plan's latency, where the job limits it.

    Raises:
        BudgetError: nothing is fast enough, or nothing needs to be made faster.
    """
    job, prepared, console = attempt.job, attempt.prepared, attempt.console
    if job.limits.latency_ms is None:
        return attempt
    console.on_message(f"measuring the latency of a batch of {job.limits.batch}, part by part: a few minutes")
    console.on_step("measuring the latency")
    table = measure_on_cluster(
        job, search_request(job, prepared.dense, prepared.proposer), prepared.output, mirror=prepared.mirror
    )
    console.on_message(f"the dense model takes {table(Plan.dense(prepared.dense.shape)):.4g} ms on {table.place}")
    return dataclasses.replace(attempt, prepared=with_latency_table(prepared, table))


def _with_warm_start(attempt: _Attempt) -> _Attempt:
    """Without the budgets that earlier searches answer, and with their trials as the sampler's history."""
    prepared = attempt.prepared
    if not attempt.job.reuse:
        return attempt
    bases = base_names(attempt.job, prepared.dataset)
    proposer, warm_start = apply_warm_start(
        attempt.job, attempt.store, prepared.proposer, prepared.output, bases=bases, mirror=prepared.mirror
    )
    for line in warm_start.describe(attempt.job.dataset.score):
        attempt.console.on_message(line)
    return dataclasses.replace(attempt, prepared=dataclasses.replace(prepared, proposer=proposer))


# The trials


def _run_trials(attempt: _Attempt, dense: DenseModels, facts: BaseFacts, callbacks: tuple[SearchCallback, ...]) -> None:
    job, prepared = attempt.job, attempt.prepared
    coordinator = Coordinator(
        job,
        attempt.store,
        prepared.proposer,
        prepared.output,
        callbacks,
        pruner=make_pruner(job.scheduler, epochs=job.training.epochs, chance=facts.chance, score=job.dataset.score),
        base=facts,
        slots=attempt.slots.running,
        spending=attempt.spending,
        mirror=prepared.mirror,
    )
    run_trials(
        TrialTrainable,
        CoordinatorSearcher(coordinator, attempt.slots, _common_config(prepared), dense.config),
        name=job.id,
        resources=trial_resources(job),
        slots=attempt.slots,
        # SIGUSR1 makes Tune stop its trials in order; on SIGINT it would leave the loop with trials half reported.
        shutdown=attempt.shutdown.forwarded_as(signal.SIGUSR1),
        is_up=attempt.spending.is_up,
    )
    if coordinator.fatal is not None:
        raise coordinator.fatal
    if attempt.spending.is_up() and (count := coordinator.end_running()):
        told = f"{count} running trial{' is' if count == 1 else 's are'} stopped, --resume with a higher limit goes on with them"
        attempt.console.on_message(f"{attempt.spending.describe()}: {told}")


def _start_callbacks(attempt: _Attempt, facts: BaseFacts) -> tuple[SearchCallback, ...]:
    """Everything that follows the trials, in the order in which each event reaches it."""
    job, prepared, store = attempt.job, attempt.prepared, attempt.store
    results = store.trials(job.id)
    eta = EtaEstimator(job, slots=attempt.slots.running, results=results, most=attempt.spending.seconds_left)
    callbacks: tuple[SearchCallback, ...] = (
        eta,
        attempt.console,
        DashboardTasks(job.id),
        CostRecorder(store, job, prepared.output, mirror=prepared.mirror),
        # Behind the recorder: what the dense model has cost is spent.
        attempt.spending,
        SearchMetrics(ray_gauges()),
        # Behind everything that writes to the store's database.
        attempt.kept,
        # The last: that of the service ends the process where another driver has taken the job over.
        attempt.callback,
    )
    search = SearchInfo(
        job=job,
        budgets=prepared.budgets,
        base=facts,
        slots=attempt.slots.running,
        results=results,
        seconds_left=eta.seconds_to_end,
        spent=attempt.spending.describe,
    )
    for callback in callbacks:
        callback.on_search_start(search)
    return callbacks


def _common_config(prepared: PreparedSearch) -> dict[str, object]:
    """What the configurations of all trials have in common (`trial_config`)."""
    job = prepared.job
    return {
        "job_id": job.id,
        "output_uri": prepared.mirror.address,
        "dataset": prepared.dataset.reference,
        "ranks": trial_ranks(job),
        # A trial's CPUs are shared by its ranks.
        "torch_threads": max(1, trial_threads(job) // trial_ranks(job)),
        "shared_folder": prepared.mirror.name(prepared.output.shared),
        "shared_training": prepared.proposer.space.with_fixed(job.training).to_json(),
        "latency_table": "" if job.limits.latency_ms is None else prepared.mirror.name(prepared.output.latency),
    }


# The end


def _finalize(attempt: _Attempt, dense: DenseModels) -> tuple[list[SelectedModel], dict[str, Explanation]]:
    """The models in `models/`, and by the budget's label why each was selected.

    Raises:
        JobError: a selected model could not be completed; the others are delivered.
    """
    job, prepared, store = attempt.job, attempt.prepared, attempt.store
    selected, latencies = select_within_latency(prepared, store, dense=dense, console=attempt.console)
    results = store.trials(job.id)
    reasons = {
        label: explain(results, result, prepared.budgets[label], job.limits, score=job.dataset.score)
        if label in prepared.budgets
        else explain_goal(prepared, results, result, dense.facts, dense=dense.folder(result.recipe.model))
        for label, result in selected.items()
    }
    if not selected:
        return [], reasons
    # A trial that several labels choose is evaluated and exported once.
    trials = {result.number for result in selected.values()}
    count = "one model" if len(trials) == 1 else f"{len(trials)} models"
    test_images = prepared.dataset.report.test.images
    attempt.console.on_message(f"evaluating {count} and the dense one on {test_images} test images, once")
    attempt.console.on_message(f"exporting them{' and measuring their speed' if job.speed else ''}: a minute or two each")
    selections = [
        Selection(
            label=label,
            # The goal has no budget but what its model costs.
            budget=prepared.budgets.get(label, result.flops or 0),
            result=result,
            reason=reasons[label].sentence,
            latency=latencies.get(result.number),
        )
        for label, result in selected.items()
    ]
    models, failed = finalize_models(
        job,
        prepared.output,
        selections,
        dense=dense,
        dataset=prepared.dataset,
        probe=prepared.probe,
        mirror=prepared.mirror,
    )
    # Recorded only now: a reader that finds the selection in the store finds complete models in the folder.
    store.set_chosen(job.id, {model.label: model.trial for model in models})
    if failed:
        raise JobError(f"{len(models)} models are delivered, and these could not be completed: {'; '.join(failed)}")
    delete_unselected_models(prepared.output, results, trials, mirror=prepared.mirror)
    return models, reasons


def _write_tables(prepared: PreparedSearch, store: Store) -> None:
    """`trials.parquet`, `front.parquet`, `front.html` and `report.html`, rebuilt from the store."""
    stored, trials = store.job(prepared.job.id), store.stored_trials(prepared.job.id)
    root = prepared.output.root
    write_trials_parquet(root / "trials.parquet", stored, trials)
    write_front_parquet(root / "front.parquet", stored, trials)
    picture = render_front(stored.job, stored.base, [trial.result for trial in trials], stored.chosen)
    write_atomically(root / "front.html", picture)
    try:
        write_search_report(prepared.output, store, stored.job.id)
    except AutoslimError as error:
        # The models are there already, and `autoslim report` writes it again.
        _log.warning("%s could not be written: %s", prepared.output.report, error)
