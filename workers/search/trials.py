"""The trials of a search: Ray Tune runs those that the coordinator hands out, and everything that follows them hears of each."""

from __future__ import annotations

import signal

from autoslim.core.result import BaseFacts
from autoslim.search import make_pruner
from workers.progress.callbacks import SearchCallback, SearchInfo
from workers.progress.cost_recorder import CostRecorder
from workers.progress.eta import EtaEstimator
from workers.progress.metrics import SearchMetrics, ray_gauges
from workers.progress.ray_dashboard import DashboardTasks
from workers.search.attempt import SearchAttempt
from workers.search.coordinator import Coordinator
from workers.search.dense_models import DenseModels
from workers.search.prepare import PreparedSearch
from workers.search.resources import trial_ranks, trial_resources, trial_threads
from workers.search.tune_run import run_trials
from workers.search.tune_searcher import CoordinatorSearcher
from workers.search.tune_trainable import TrialTrainable


def run_search_trials(
    attempt: SearchAttempt, dense: DenseModels, facts: BaseFacts, callbacks: tuple[SearchCallback, ...]
) -> None:
    """Runs trials until the search has had enough of them, or has spent what it may.

    Raises:
        AutoslimError: the trials all failed, or what they need cannot be reached.
        KeyboardInterrupt: a signal has ended them in order.
    """
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


def start_callbacks(attempt: SearchAttempt, facts: BaseFacts) -> tuple[SearchCallback, ...]:
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
        unspent=attempt.spending.unspent,
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
        "stall_seconds": 60 * job.stall_minutes,
        "shared_folder": prepared.mirror.name(prepared.output.shared),
        "shared_training": prepared.proposer.space.with_fixed(job.training).to_json(),
        "latency_table": "" if job.limits.latency_ms is None else prepared.mirror.name(prepared.output.latency),
    }
