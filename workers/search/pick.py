"""Another point of a finished search's front, handed over whole: `models/<budget>/` as the search would have made it.

Nothing is trained and Ray is not needed: the models of the front's trials stay in the output folder.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from autoslim.core.accuracy_goal import AccuracyGoal, parse_least
from autoslim.core.budget import Budget, format_flops
from autoslim.core.files import move_folder
from autoslim.core.folder_lock import FolderLock, FolderUse
from autoslim.core.job import SearchJob
from autoslim.core.result import BaseFacts, ParetoFront, TrialResult
from autoslim.core.run_folder import RunFolder
from autoslim.core.selection import best_within, cheapest_above, eligible
from autoslim.data import prepare_dataset, prepare_probe
from autoslim.errors import BudgetError, OutputError, RequestError
from autoslim.report.finalize import evaluate_both
from autoslim.search import explain_floor, why_missed
from autoslim.store.of_folder import store_of
from autoslim.training.comparison import measure_drops
from workers.search.base_model import base_names
from workers.search.finalize import SelectedModel, Selection, complete_selection, copy_trial_model, selected_model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wish:
    """Which point: the best within the budget `flops`, or the cheapest that keeps to `goal`."""

    flops: str | None = None
    goal: AccuracyGoal | None = None

    @classmethod
    def of(cls, *, flops: str | None = None, max_drop: float | None = None, min_accuracy: str | None = None) -> Wish:
        """As the flags are given. Raises RequestError naming the flag, where not exactly one is, or its value cannot be read."""
        if sum(value is not None for value in (flops, max_drop, min_accuracy)) != 1:
            raise RequestError("one of --flops, --max-drop and --min-accuracy is needed, and not several")
        if flops is not None:
            return cls(flops=flops)
        try:
            least = None if min_accuracy is None else parse_least(min_accuracy)
        except ValueError as error:
            raise RequestError(f"--min-accuracy {error}") from error
        return cls(goal=AccuracyGoal(max_drop=max_drop, least=least))

    @property
    def label(self) -> str:
        """The name of the model's folder."""
        return self.goal.label if self.goal is not None else Budget.parse(self.flops or "").label


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
    return _publish(output, job, selection, base, wish.goal)


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
    assert wish.goal is not None
    # As a search with this goal would select it.
    selected = cheapest_above(results, wish.goal.floor(base.dense_accuracy), job.limits)
    if selected is None:
        raise BudgetError(f"{wish.goal.flag}: {why_missed(results, wish.goal, base, job.limits, score=score)}")
    return selected, explain_floor(results, selected, wish.goal, base, job.limits, score=score).sentence


def _publish(
    output: RunFolder, job: SearchJob, selection: Selection, base: BaseFacts, goal: AccuracyGoal | None
) -> SelectedModel:
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
        if goal is not None and dataset.classes:
            allowed = base.dense_accuracy - goal.floor(base.dense_accuracy).least
            drops = [drop.describe() for drop in measure_drops(folder, dense, dataset, allowed=allowed)]
            selection = dataclasses.replace(selection, reason="; ".join([selection.reason, *drops]))
        holdout = evaluate_both(folder, dense, dataset, probe=probe, dense_validation=base.starts.get(model, base).dense_accuracy)
        complete_selection(job, folder, selection, holdout, base=dense, dataset=dataset)
        move_folder(folder, output.model(selection.label))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return selected_model(selection, holdout, output.model(selection.label))
