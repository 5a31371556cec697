"""The search's driver: from a job to models within their budgets, and on from where an earlier attempt ended.

The store decides which trial comes next and, on `resume`, which are run again; Ray Tune's own snapshots are never read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path

from autoslim.core.files import is_disk_full
from autoslim.core.folder_lock import FolderLock, FolderUse
from autoslim.core.job import SearchJob
from autoslim.core.plan import Plan
from autoslim.core.run_folder import RunFolder
from autoslim.core.urls import default_url
from autoslim.errors import AutoslimError
from autoslim.progress.display import Display
from autoslim.report.search_report.environment import write_environment
from autoslim.report.tracking import BackgroundSync, MlflowSync
from autoslim.search import disk_use, most_work
from autoslim.store import PATIENCE_SECONDS, Guard, JobState, Store
from workers.progress.callbacks import SearchCallback, SearchStage
from workers.progress.console import Console
from workers.progress.cost import cost_of, output_size, spent_seconds
from workers.progress.cost_recorder import handover_recorded
from workers.search.attempt import SearchAttempt
from workers.search.base_model import base_names
from workers.search.cluster import Cluster, connect
from workers.search.dense_models import adapt_dense_models
from workers.search.full_disk import FullDisk
from workers.search.handover import hand_over, write_tables
from workers.search.kept_output import KeptOutput, kept_output
from workers.search.latency import measure_on_cluster, search_request
from workers.search.nodes import usable_nodes
from workers.search.prepare import PreparedSearch, other_images, prepare, with_floor, with_latency_table
from workers.search.resources import busy_machine, scarcest_node, trial_resources, with_default_resources
from workers.search.signals import GracefulShutdown
from workers.search.slots import Slots
from workers.search.spending_guard import SpendingGuard, handover_images
from workers.search.summary import Summary, summarize
from workers.search.trials import run_search_trials, start_callbacks
from workers.search.warm_start import apply_warm_start

_LAST_SYNC_SECONDS = 60.0
"""How long the end of a search waits for MLflow: a server that does not answer must not keep finished models from their user."""


def run_search(
    job: SearchJob,
    *,
    resume: bool = False,
    storage: str | None = None,
    callback: SearchCallback | None = None,
    display: Display | None = None,
    guard: Guard | None = None,
) -> Summary:
    """Runs the job to its end, or with `resume` the rest of it.

    `storage` is the URL of a store that must not be written into the job's record, because it holds a password. `display` shows the
    progress, and is entered by the caller; by default each event is a line on stderr. `guard` is asked before each change of the store.

    Raises:
        AutoslimError: with the `exit_code` of what went wrong; finished trials stay in the store, and `resume` continues from them.
    """
    # No other process may begin or resume a search in this folder meanwhile.
    with FolderLock(Path(job.output), FolderUse.SEARCH):
        callback = callback or SearchCallback()
        console = Console(job, display, forward=callback.on_message)
        with kept_output(job, resume=resume, tell=console.on_message) as kept:
            url = storage or job.storage or default_url(job.output)
            open_store = functools.partial(Store, url, patience=PATIENCE_SECONDS, guard=guard)
            return _run_locked(job, kept, resume=resume, open_store=open_store, callback=callback, console=console)


def _run_locked(
    job: SearchJob,
    kept: KeptOutput,
    *,
    resume: bool,
    open_store: Callable[[], Store],
    callback: SearchCallback,
    console: Console,
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
        with open_store() as store:
            summary = _run_attempt(prepared, store, callback, console, kept, resume=resume, began=began)
            cost = summary.cost.replace(seconds=time.monotonic() - began, bytes=output_size(output.root, kept.mirror))
            return summary.replace(cost=cost)
    except (OSError, AutoslimError) as error:
        if is_disk_full(error):
            # A task names the disk of its own node.
            found = FullDisk.read(str(error)) or FullDisk(str(output.root))
            raise found.error() from error
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
    # A folder may have been moved since, and that of an object store is another one on each machine.
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
            write_tables(prepared, store)
            kept.keep()
        background.close(_LAST_SYNC_SECONDS)
        raise
    store.set_state(job.id, JobState.COMPLETE)
    try:
        write_tables(prepared, store)
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
) -> SearchAttempt:
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
    return SearchAttempt(
        prepared=prepared,
        store=store,
        console=console,
        callback=callback,
        kept=kept,
        shutdown=shutdown,
        slots=slots,
        spending=spending,
    )


def _search(attempt: SearchAttempt) -> Summary:
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
    callbacks = start_callbacks(attempt, facts)
    if attempt.prepared.proposer.targets:
        run_search_trials(attempt, dense, facts, callbacks)
    for callback in (attempt.console, attempt.callback):
        callback.on_stage_start(SearchStage.FINALIZING)
    with handover_recorded(store, job.id):
        models, reasons = hand_over(attempt, dense)
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


def _report_unused_starts(attempt: SearchAttempt) -> None:
    for budget, model, reason in attempt.prepared.proposer.unused_starts:
        attempt.console.on_message(f"no recipe for {budget} starts from {model}: {reason}")


def _with_latency(attempt: SearchAttempt) -> SearchAttempt:
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


def _with_warm_start(attempt: SearchAttempt) -> SearchAttempt:
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
