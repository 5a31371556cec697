"""The end of a search: the models that it delivers, each with the reason, and the tables and pages of all trials."""

from __future__ import annotations

import logging

from autoslim.core.files import write_atomically
from autoslim.errors import AutoslimError, JobError
from autoslim.report import render_front
from autoslim.search import Explanation, explain
from autoslim.store import Store
from autoslim.store.export import write_front_parquet, write_trials_parquet
from workers.search.attempt import SearchAttempt
from workers.search.dense_models import DenseModels
from workers.search.finalize import SelectedModel, Selection, delete_unselected_models, finalize_models
from workers.search.goal import explain_goal
from workers.search.latency import select_within_latency
from workers.search.prepare import PreparedSearch
from workers.search.report import write_search_report

_log = logging.getLogger(__name__)


def hand_over(attempt: SearchAttempt, dense: DenseModels) -> tuple[list[SelectedModel], dict[str, Explanation]]:
    """The models in `models/`, and by the budget's label why each was selected.

    Raises:
        JobError: a selected model could not be completed; the others are delivered.
    """
    job, prepared, store = attempt.job, attempt.prepared, attempt.store
    selected, latencies = select_within_latency(prepared, store, dense=dense, console=attempt.console)
    results, images = store.trials(job.id), prepared.dataset.report.validation.images
    reasons = {
        label: explain(results, result, prepared.budgets[label], job.limits, score=job.dataset.score, images=images)
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
    attempt.console.on_message(f"evaluating {count} and the dense one on {test_images:,} test images, once")
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


def write_tables(prepared: PreparedSearch, store: Store) -> None:
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
