"""Another point of a finished search's front, handed over whole: `models/<budget>/` as the search would have made it.

Nothing is trained and Ray is not needed: the models of the front's trials stay in the output folder.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from autoslim.core.budget import Budget, format_flops
from autoslim.core.files import move_folder
from autoslim.core.folder_lock import FolderLock, FolderUse
from autoslim.core.job import SearchJob
from autoslim.core.result import BaseFacts, ParetoFront, TrialResult
from autoslim.core.run_folder import RunFolder
from autoslim.core.selection import best_within, eligible
from autoslim.data import prepare_dataset, prepare_probe
from autoslim.errors import BudgetError, OutputError, RequestError
from autoslim.report.finalize import evaluate_both
from autoslim.store.of_folder import store_of
from workers.search.base_model import base_names
from workers.search.finalize import SelectedModel, Selection, complete_selection, copy_trial_model, selected_model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wish:
    """Which point: the best within `flops`, or the cheapest that is at most `max_drop` points of top-1 below the dense model."""

    flops: str | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        if (self.flops is None) == (self.max_drop is None):
            raise RequestError("one of --flops and --max-drop is needed, and not both")
        if self.max_drop is not None and not 0 <= self.max_drop < 100:
            raise RequestError(f"--max-drop is {self.max_drop:g}; allowed: 0 to 100 points of accuracy")

    @property
    def label(self) -> str:
        """The name of the model's folder."""
        return Budget.parse(self.flops).label if self.flops is not None else f"drop-{self.max_drop:g}"


def pick(folder: Path, wish: Wish) -> SelectedModel:
    """The model of the wished trial, evaluated on the test images, exported and described in `models/<label>/`.

    Raises:
        BudgetError: where no trial is such a one; names the nearest.
        OutputError: where the folder holds no search, its models are gone, or one of this label is there already.
    """
    output = RunFolder(folder.absolute())
    job = output.read_job().replace(output=str(output.root))
    with FolderLock(output.root, FolderUse.SEARCH):
        return _pick(output, job, wish)


def _pick(output: RunFolder, job: SearchJob, wish: Wish) -> SelectedModel:
    destination = output.model(wish.label)
    if destination.exists():
        raise OutputError(f"{destination} is there already; delete it to have it made again")
    if job.limits.latency_ms is not None:
        # A latency holds for the machine that it was measured on, which need not be this one.
        raise RequestError(f"this search limits the latency ({job.limits.flags}), which is measured where its trials run")
    with store_of(output.root, job) as store:
        base, results = store.job(job.id).base, store.trials(job.id)
    if base is None:
        raise OutputError(f"{output.root}: the search has not measured its dense model yet, and has no trial to pick")
    result, reason = wished_trial(results, base, wish, job)
    if result.artifact is None or not (output.root / result.artifact).is_dir():
        kept = ", ".join(str(found.number) for found in ParetoFront.of(results).results)
        raise OutputError(
            f"the model of trial {result.number} was not kept; those of the front were: {kept}. `autoslim front` shows them"
        )
    budget = result.flops or 0 if wish.flops is None else Budget.parse(wish.flops).flops_of(base.dense_flops)
    selection = Selection(label=wish.label, budget=budget, result=result, reason=reason)
    return _publish(output, job, selection, base)


def wished_trial(results: list[TrialResult], base: BaseFacts, wish: Wish, job: SearchJob) -> tuple[TrialResult, str]:
    """The trial, and why it is the one. Raises BudgetError where there is none."""
    candidates, score = eligible(results, job.limits), job.dataset.score
    if wish.flops is not None:
        flops = Budget.parse(wish.flops).flops_of(base.dense_flops)
        found = best_within(results, flops, job.limits)
        if found is None:
            cheapest = min((candidate.flops or 0 for candidate in candidates), default=0)
            raise BudgetError(f"--flops {wish.flops}: no trial is within it; the cheapest has {format_flops(cheapest)}")
        return found, f"the {score.superlative} trial within {wish.label}"
    assert wish.max_drop is not None
    least = base.dense_accuracy - wish.max_drop / 100
    accurate = [candidate for candidate in candidates if (candidate.accuracy or 0.0) >= least]
    if not accurate:
        best = max((candidate.accuracy or 0.0 for candidate in candidates), default=0.0)
        raise BudgetError(
            f"--max-drop {wish.max_drop:g}: no trial has {score.text(least, 2)} on the validation images, where the dense model has "
            f"{score.text(base.dense_accuracy, 2)}; the {score.superlative} has {score.text(best, 2)}"
        )
    # Of equally cheap ones the more accurate, then the earlier.
    cheapest_of = min(accurate, key=lambda candidate: (candidate.flops or 0, -(candidate.accuracy or 0.0), candidate.number))
    return cheapest_of, f"the cheapest trial at most {score.drop(wish.max_drop)} below the dense model on the validation images"


def _publish(output: RunFolder, job: SearchJob, selection: Selection, base: BaseFacts) -> SelectedModel:
    dataset = prepare_dataset(job.dataset, output.cache, seed=job.seed)
    probe = prepare_probe(job.probe, job.dataset, output.cache, seed=job.seed)
    names, model = base_names(job, dataset), selection.result.recipe.model
    dense = output.cache / (names[model] if model in names else next(iter(names.values())))
    if not dense.is_dir():
        raise OutputError(
            f"the dense model of the search is gone: {dense} does not exist; autoslim search --resume makes it again"
        )
    folder = copy_trial_model(output, selection)
    try:
        holdout = evaluate_both(folder, dense, dataset, probe=probe, dense_validation=base.starts.get(model, base).dense_accuracy)
        forms = complete_selection(job, folder, selection, holdout, base=dense, dataset=dataset)
        move_folder(folder, output.model(selection.label))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return selected_model(selection, holdout, output.model(selection.label), forms)
