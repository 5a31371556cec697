"""The search's driver: from a job to models within their budgets, and back to work after a crash.

What can be checked without training is checked before Ray is even started. The store decides everything: which trial comes next, and
on `resume` which are to be run again; Tune's own snapshots are never read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import signal
import time
from pathlib import Path

from autoslim.core.files import is_disk_full, write_atomically
from autoslim.core.job import SearchJob
from autoslim.core.plan import Plan
from autoslim.core.record import Record
from autoslim.core.result import BaseFacts, ParetoFront, SharedCost, TrialResult, TrialState
from autoslim.core.run_folder import RunFolder
from autoslim.core.urls import default_url
from autoslim.cost import LatencyTable, predict
from autoslim.data import PreparedDataset, prepare_dataset
from autoslim.errors import AutoslimError, BudgetError, JobError, OutputError, RequestError
from autoslim.methods import Constraints, check_not_trivial
from autoslim.models import DenseModel, create_dense
from autoslim.report import render_front
from autoslim.report.tracking import BackgroundSync, MlflowSync
from autoslim.search import (
    AgainstControl,
    Proposer,
    Reason,
    against_control,
    cheaper_and_better,
    load_space,
    make_pruner,
    reason,
)
from autoslim.search.refinement import REUSED
from autoslim.store import JobState, Store
from autoslim.store.export import write_front_parquet, write_trials_parquet
from workers.progress.booking import CostRecorder, Dashboard
from workers.progress.callbacks import Listener, NoWatcher, Phase, Watcher
from workers.progress.console import Terminal
from workers.progress.cost import Cost, cost_of, folder_size, spent_seconds
from workers.progress.metrics import SearchMetrics, ray_gauges
from workers.progress.ray_dashboard import DashboardTasks
from workers.search.base_model import adapt, base_request, threads, trial_resources
from workers.search.cluster import Cluster, connect
from workers.search.coordinator import Coordinator
from workers.search.finalize import SelectedModel, finalize_models
from workers.search.latency import choose_measured, measure_on_cluster, search_request
from workers.search.signals import Interrupt
from workers.search.tune_run import run_trials
from workers.search.tune_searcher import StoreSearcher
from workers.search.tune_trainable import SlimTrial
from workers.search.warm_start import apply_warm_start

_LAST_SYNC = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """A job whose request has been checked: nothing was trained yet."""

    job: SearchJob
    output: RunFolder
    dataset: PreparedDataset
    dense: DenseModel
    dense_flops: int
    budgets: dict[str, int]
    proposer: Proposer

    @property
    def kept(self) -> float:
        """The share of the dense model's FLOPs that the budgets leave on average."""
        return sum(self.budgets.values()) / len(self.budgets) / self.dense_flops


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary(Record):
    """How a search ended.

    `states` counts this search's own trials. `reasons` say why each model was taken, `cheaper` are trials that did at least as well as a
    model for fewer FLOPs, `missing` the budgets that no trial met, `shared` what was worked out once for many trials; `logged` is false
    when MLflow was down.
    `cost` is that of all attempts, but for its `seconds`, which are this one's.
    """

    job: str
    output: str
    dense_flops: int
    dense_accuracy: float
    models: tuple[SelectedModel, ...]
    controls: dict[str, AgainstControl]
    cheaper: dict[str, TrialResult]
    reasons: dict[str, Reason]
    missing: tuple[str, ...]
    shared: tuple[SharedCost, ...]
    states: dict[str, int]
    tracking_uri: str
    logged: bool
    cost: Cost


def prepare(job: SearchJob, cache: Path) -> Prepared:
    """Checks everything that can be checked without training.

    Raises:
        RequestError: BudgetError, UnsupportedModelError, DatasetError, SpaceError or WeightsError, saying what is allowed.
    """
    if not job.budgets:
        raise RequestError("a search needs at least one FLOPs budget")
    space = load_space(job.space)
    create_dense(job.model.replace(weights="scratch"))
    dataset = prepare_dataset(job.dataset, cache, seed=job.seed)
    dense = create_dense(job.model, classes=len(dataset.classes))
    flops = predict(dense.shape, Plan.dense(dense.shape)).total
    budgets = {budget.label: budget.resolve(flops) for budget in job.budgets}
    for budget in job.budgets:
        check_not_trivial(budget, Constraints(limits=job.limits), dense.shape)
    if len(budgets) < len(job.budgets):
        raise RequestError(f"each budget can be asked for once: {', '.join(budget.label for budget in job.budgets)}")
    proposer = Proposer(
        space=space,
        shape=dense.shape,
        budgets=budgets,
        training=job.training,
        seed=job.seed,
        sampler=job.sampler,
        class_query=job.class_query,
        bound=job.bound,
        limits=job.limits,
    )
    return Prepared(
        job=job,
        output=RunFolder(Path(job.output)),
        dataset=dataset,
        dense=dense,
        dense_flops=flops,
        budgets=budgets,
        proposer=proposer,
    )


def disk_need(prepared: Prepared) -> int:
    """Bytes of checkpoints and models: two trials' state at a time, a model a trial, the base, and five forms of each one handed over."""
    weights = 4 * sum(p.numel() for p in prepared.dense.module.parameters())
    slots = prepared.job.concurrency or 2
    return weights * (prepared.job.trials + 2 + 8 * slots + 5 * len(prepared.budgets)) + 50 * 2**20


def run_search(job: SearchJob, *, resume: bool = False, storage: str | None = None, watcher: Watcher | None = None) -> Summary:
    """Runs the job to its end, or goes on with it.

    `storage` is for one that must not be written into the job's record.

    Raises:
        AutoslimError: with the `exit_code` of what went wrong; whatever was finished stays in the store and `resume` goes on from it.
    """
    began, output = time.monotonic(), RunFolder(Path(job.output))
    output.claim(need=0, resume=resume)
    prepared = prepare(job, output.cache)
    output.claim(need=disk_need(prepared), resume=resume)
    output.write_job(job)
    try:
        with Store(storage or job.storage or default_url(job.output)) as store:
            summary = _run(prepared, store, watcher or NoWatcher(), resume=resume)
            cost = summary.cost.replace(seconds=time.monotonic() - began, bytes=folder_size(output.root))
            return summary.replace(cost=cost)
    except (OSError, AutoslimError) as error:
        if is_disk_full(error):
            raise OutputError(f"the disk of {output.root} is full; make room and go on with --resume") from error
        raise


def _run(prepared: Prepared, store: Store, watcher: Watcher, *, resume: bool) -> Summary:
    job = prepared.job
    if not resume or not store.has_job(job.id):
        store.create_job(job)
    store.begin_attempt(job.id)
    watcher.begins(prepared.budgets, store.trials(job.id))
    mirror = MlflowSync(store, job.id)
    thread = BackgroundSync(mirror).start()
    try:
        with connect(job.address, name=job.id) as cluster, Interrupt() as interrupt:
            settled = dataclasses.replace(prepared, job=job.replace(resources=job.resources or cluster.share()))
            summary = _search(settled, store, cluster, interrupt, watcher)
    except BaseException as error:
        # Here a job ends. What is known is written down where that is still possible; the error that is told is the first one.
        stopped = isinstance(error, KeyboardInterrupt)
        with contextlib.suppress(AutoslimError):
            store.set_state(job.id, JobState.STOPPED if stopped else JobState.FAILED, error=None if stopped else str(error))
        thread.close(_LAST_SYNC)
        with contextlib.suppress(AutoslimError, OSError):
            _write_tables(prepared, store)
        raise
    store.set_state(job.id, JobState.COMPLETE)
    logged = thread.close(_LAST_SYNC)
    _write_tables(prepared, store)
    return summary.replace(tracking_uri=mirror.uri, logged=logged)


def _search(prepared: Prepared, store: Store, cluster: Cluster, interrupt: Interrupt, watcher: Watcher) -> Summary:
    job = prepared.job
    slots = min(cluster.slots(trial_resources(job)), job.concurrency or job.trials)
    terminal = Terminal(job, budgets=prepared.budgets, slots=slots, tell=watcher.says)
    terminal.note(
        f"job {job.id}: {job.trials} trials of {job.training.epochs:g} epochs, {slots} at a time, on Ray {cluster.address}"
    )
    if cluster.dashboard:
        terminal.note(f"Ray dashboard: {cluster.dashboard} ({cluster.login}); every trial is a task of the job's board there")
    prepared = _timed(prepared, terminal)
    if job.reuse:
        prepared = _reusing(prepared, store, terminal)
    base, facts = adapt(job, prepared.output, prepared.dataset, terminal)
    if (table := prepared.proposer.timer) is not None:
        facts = facts.replace(latency_ms=table(Plan.dense(prepared.dense.shape)))
    store.set_base(job.id, facts)
    watcher.enters(Phase.SEARCHING)
    if prepared.proposer.budgets:
        _run_trials(prepared, store, terminal, base, facts, slots, interrupt, watcher)
    watcher.enters(Phase.FINALIZING)
    began = time.monotonic()
    chosen, latencies = choose_measured(job, store, prepared.budgets, table, output=prepared.output, base=base, terminal=terminal)
    results = store.trials(job.id)
    reasons = {label: reason(results, result, prepared.budgets[label]) for label, result in chosen.items()}
    models: list[SelectedModel] = []
    if chosen:
        models_said = "one model" if len(chosen) == 1 else f"{len(chosen)} models"
        terminal.say(f"judging {models_said} and the dense one on {prepared.dataset.report.test.images} test images, once")
        terminal.say("making their forms and measuring their speed, a minute or two each")
        models, failed = finalize_models(
            job,
            prepared.output,
            chosen,
            prepared.budgets,
            _sentences(reasons),
            base=base,
            facts=facts,
            dataset=prepared.dataset,
            latencies=latencies,
        )
        # Not before: whoever sees the choice in the store finds its models complete.
        store.set_chosen(job.id, {model.label: model.trial for model in models})
        if failed:
            raise JobError(f"{len(models)} models are handed over, and these could not be completed: {'; '.join(failed)}")
        _drop_losers(prepared.output, results, {result.number for result in chosen.values()})
    stored = store.job(job.id)
    busy = spent_seconds(store, stored) + time.monotonic() - began
    summary = _summary(prepared, results, facts, models, stored.shared)
    return summary.replace(reasons=reasons, cost=cost_of(job, seconds=0.0, busy_seconds=busy, size=0))


def _sentences(reasons: dict[str, Reason]) -> dict[str, str]:
    return {label: found.sentence for label, found in reasons.items()}


def _reusing(prepared: Prepared, store: Store, terminal: Terminal) -> Prepared:
    """Without the budgets that earlier searches have answered, and with their trials as history."""
    job, output = prepared.job, prepared.output
    base = output.base(base_request(job, prepared.dataset).digest()).name
    proposer, taken = apply_warm_start(job, store, prepared.proposer, output, base=base)
    for line in taken.told:
        terminal.say(line)
    return dataclasses.replace(prepared, proposer=proposer)


def _timed(prepared: Prepared, terminal: Terminal) -> Prepared:
    """With a table that tells the latency of a plan, where that is limited.

    Raises:
        BudgetError: where nothing is short enough, or nothing needs to be made shorter.
    """
    job = prepared.job
    if job.limits.latency_ms is None:
        return prepared
    terminal.say(f"measuring what a batch of {job.limits.batch} takes, part by part: a few minutes")
    table = measure_on_cluster(job, search_request(job, prepared.dense, prepared.proposer), prepared.output)
    terminal.say(f"the dense model takes {table(Plan.dense(prepared.dense.shape)):.4g} ms on {table.place}")
    return with_table(prepared, table)


def with_table(prepared: Prepared, table: LatencyTable) -> Prepared:
    """Raises BudgetError as `prepare` does, by the latency too."""
    for budget in prepared.job.budgets:
        check_not_trivial(budget, Constraints(limits=prepared.job.limits, timer=table), prepared.dense.shape)
    return dataclasses.replace(prepared, proposer=dataclasses.replace(prepared.proposer, timer=table))


def _summary(
    prepared: Prepared,
    results: list[TrialResult],
    facts: BaseFacts,
    models: list[SelectedModel],
    shared: tuple[SharedCost, ...],
) -> Summary:
    have = {model.label for model in models}
    chosen = {model.label: results[model.trial] for model in models}
    controls = {label: against_control(results, prepared.budgets, label, prepared.job.limits) for label in prepared.budgets}
    return Summary(
        job=prepared.job.id,
        output=str(prepared.output.root),
        dense_flops=facts.dense_flops,
        dense_accuracy=facts.dense_accuracy,
        models=tuple(models),
        controls={label: control for label, control in controls.items() if control is not None},
        cheaper=cheaper_and_better([result for result in results if result.keeps_to(prepared.job.limits)], chosen),
        reasons={},
        missing=tuple(label for label in prepared.budgets if label not in have),
        shared=shared,
        states={state.value: sum(result.state is state for result in results if result.origin != REUSED) for state in TrialState},
        tracking_uri="",
        logged=False,
        cost=cost_of(prepared.job, seconds=0.0, busy_seconds=0.0, size=0),
    )


# The trials


def _run_trials(
    prepared: Prepared,
    store: Store,
    terminal: Terminal,
    base: Path,
    facts: BaseFacts,
    slots: int,
    interrupt: Interrupt,
    watcher: Watcher,
) -> None:
    job = prepared.job
    terminal.already(store.trials(job.id))
    metrics = SearchMetrics(job, budgets=prepared.budgets, facts=facts, earlier=store.trials(job.id), record=ray_gauges())
    booking = CostRecorder(store, job, prepared.output)
    listeners: tuple[Listener, ...] = (terminal, Dashboard(DashboardTasks(job.id)), booking, metrics, watcher)
    scheduler = make_pruner(job.scheduler, epochs=job.training.epochs, chance=facts.chance)
    coordinator = Coordinator(
        job, store, prepared.proposer, prepared.output, listeners, scheduler=scheduler, base=facts, slots=slots
    )
    shared = {
        "job": job.id,
        "base": str(base),
        "dataset": str(prepared.dataset.path),
        "threads": threads(job),
        "shared": str(prepared.output.shared),
        "common": job.training.to_json(),
        "latency": "" if job.limits.latency_ms is None else str(prepared.output.latency),
    }
    searcher = StoreSearcher(coordinator, shared)
    run_trials(
        SlimTrial, searcher, name=job.id, resources=trial_resources(job), slots=slots, relay=interrupt.by_signal(signal.SIGUSR1)
    )
    if coordinator.fatal is not None:
        raise coordinator.fatal


# The end


def _write_tables(prepared: Prepared, store: Store) -> None:
    stored, trials = store.job(prepared.job.id), store.stored_trials(prepared.job.id)
    root = prepared.output.root
    write_trials_parquet(root / "trials.parquet", stored, trials)
    write_front_parquet(root / "front.parquet", stored, trials)
    picture = render_front(stored.job, stored.base, [trial.result for trial in trials], stored.chosen)
    write_atomically(root / "front.html", picture)


def _drop_losers(output: RunFolder, results: list[TrialResult], chosen: set[int]) -> None:
    """Models off the front that were not chosen either are of no more use, and a search has many; their rows stay."""
    kept = chosen | {result.number for result in ParetoFront.of(results).results}
    for result in results:
        if result.artifact is not None and result.number not in kept and result.duplicate_of is None:
            shutil.rmtree((output.root / result.artifact).parent, ignore_errors=True)


def exit_code(summary: Summary) -> int:
    """0, or 3 when a budget has no model."""
    return BudgetError.exit_code if summary.missing else 0
