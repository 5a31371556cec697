"""Another point of a finished search's front, handed over whole: `models/<budget>/` as the search would have made it.

Ray is not needed: the models of the front's trials stay in the output folder. Nothing is trained, unless the model is to be fine-tuned for
longer: then the validation images decide which of the two is handed over.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
import shutil
from collections.abc import Callable, Generator
from pathlib import Path, PurePath

from autoslim.core.accuracy_goal import AccuracyGoal, parse_least
from autoslim.core.budget import Budget, format_flops
from autoslim.core.files import move_folder
from autoslim.core.folder_lock import FolderLock, FolderUse
from autoslim.core.job import SearchJob
from autoslim.core.recipe import title_of
from autoslim.core.result import BaseFacts, EpochReport, ParetoFront, TrialResult
from autoslim.core.run_folder import RunFolder
from autoslim.core.score import Score
from autoslim.core.selection import best_within, cheapest_above, eligible
from autoslim.data import PreparedDataset, prepare_dataset, prepare_probe
from autoslim.errors import BudgetError, DatasetError, OutputError, RequestError
from autoslim.export.artifact import SlimConfig, load_config
from autoslim.models.weights import file_digest
from autoslim.progress.epoch_line import epoch_line
from autoslim.report.finalize import evaluate_both
from autoslim.report.search_report.environment import prepared_images, read_environment
from autoslim.search import explain_floor, why_missed
from autoslim.storage.mirror import NO_MIRROR, Mirror
from autoslim.store.of_folder import store_of
from autoslim.training import TrialContext
from autoslim.training.comparison import measure_drops
from autoslim.training.longer import TunedLonger, tune_longer
from workers.search.base_model import base_names, base_request
from workers.search.finalize import SelectedModel, Selection, complete_selection, copy_model, selected_model
from workers.search.kept_output import kept_output, read_job
from workers.search.made_from import teacher_spec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wish:
    """Which point: the best within the budget `flops`, or the cheapest that keeps to `goal`. `tune` are epochs of fine-tuning beyond the
    trial's."""

    flops: str | None = None
    goal: AccuracyGoal | None = None
    tune: float | None = None

    @classmethod
    def of(
        cls,
        *,
        flops: str | None = None,
        max_drop: float | None = None,
        min_accuracy: str | None = None,
        tune: float | None = None,
    ) -> Wish:
        """As the flags are given. Raises RequestError naming the flag, where not exactly one point is, or its value cannot be read."""
        if sum(value is not None for value in (flops, max_drop, min_accuracy)) != 1:
            raise RequestError("one of --flops, --max-drop and --min-accuracy is needed, and not several")
        if tune is not None and not 0 < tune < math.inf:
            raise RequestError(f"--tune is {tune:g}; allowed: more than 0 epochs")
        if flops is not None:
            return cls(flops=flops, tune=tune)
        try:
            least = None if min_accuracy is None else parse_least(min_accuracy)
        except ValueError as error:
            raise RequestError(f"--min-accuracy {error}") from error
        return cls(goal=AccuracyGoal(max_drop=max_drop, least=least), tune=tune)

    @property
    def label(self) -> str:
        """The name of the model's folder."""
        return self.goal.label if self.goal is not None else Budget.parse(self.flops or "").label


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Surroundings:
    """What the trials of one start were trained and are judged with: folders of dense models, and images."""

    dense: Path
    teacher: Path | None
    dataset: PreparedDataset
    probe: PreparedDataset | None
    facts: BaseFacts
    goal: AccuracyGoal | None


def pick(folder: Path, wish: Wish, *, uri: str | None = None, tell: Callable[[str], None] | None = None) -> SelectedModel:
    """The model of the wished trial, evaluated on the test images, exported and described in `models/<label>/`. `tell` gets a line on
    what was found, and one for each epoch of a fine-tuning; one that was interrupted is continued. With a `uri` the
    search's output is there, and the model goes there, too; `folder` is the one that this machine works in.

    Raises:
        BudgetError: where no trial is such a one; names the nearest.
        OutputError: where the folder holds no search, its models are gone, or one of this label is there that is not to be tuned.
    """
    output = RunFolder(folder.absolute())
    tell = tell or (lambda line: None)
    job = read_job(output.root, uri).replace(output=str(output.root))
    with FolderLock(output.root, FolderUse.SEARCH), kept_output(job, resume=True, tell=tell) as kept:
        model = _pick(output, job, wish, tell, kept.mirror)
        kept.mirror.publish(output.model(wish.label), last="config.json")
        return model


def _pick(output: RunFolder, job: SearchJob, wish: Wish, tell: Callable[[str], None], mirror: Mirror) -> SelectedModel:
    destination = output.model(wish.label)
    mirror.fetch_published(destination, last="config.json")
    if destination.exists() and wish.tune is None:
        raise OutputError(f"{destination} is there already; delete it to have it made again, or fine-tune it with --tune EPOCHS")
    if job.limits.latency_ms is not None:
        # A latency holds for the machine that it was measured on, which need not be this one.
        raise RequestError(f"this search limits the latency ({job.limits.flags}), which is measured where its trials run")
    with store_of(output.root, job) as store:
        stored, results = store.job(job.id), store.trials(job.id)
    base = stored.base
    if base is None:
        raise OutputError(f"{output.root}: the search has not measured its dense model yet, and has no trial to pick")
    result, reason = wished_trial(results, base, wish, job)
    if result.artifact is not None:
        mirror.refresh(output.root / result.artifact)
    source = _source(output, result, destination, eligible(results, job.limits))
    budget = result.flops or 0 if wish.flops is None else Budget.parse(wish.flops).flops_of(base.dense_flops)
    selection = Selection(label=wish.label, budget=budget, result=result, reason=reason)
    tell(_announced(result, wish, [label for label, number in stored.chosen.items() if number == result.number]))
    around = _surroundings(output, job, result, base, wish.goal, mirror, tell)
    if wish.tune is None:
        return _publish(output, job, selection, around, source)
    return _tuned(output, job, selection, around, source, epochs=wish.tune, tell=tell)


def _announced(result: TrialResult, wish: Wish, labels: list[str]) -> str:
    """Which trial it is, and what is about to happen; `labels` are the budgets that the search has handed it over for."""
    title = title_of(result.recipe.method, result.recipe.model)
    same = f", the model of {', '.join(labels)}" if labels else ""
    what = "evaluating and exporting it: a minute or two"
    if wish.tune is not None:
        what = f"fine-tuning it for {wish.tune:g} epochs, as long as these take, then evaluating and exporting it"
    return f"{wish.label}: trial {result.number} ({title}) at {format_flops(result.flops or 0)}{same}; {what}"


def _source(output: RunFolder, result: TrialResult, destination: Path, candidates: list[TrialResult]) -> Path:
    """The folder of the trial's model: the one that was handed over, where there is one. `candidates` are those that can be wished."""
    if destination.exists():
        if load_config(destination).flops.held != result.flops:
            raise OutputError(
                f"{destination} holds another trial's model than trial {result.number}'s; delete it, and repeat the command"
            )
        return destination
    if result.artifact is None or not (output.root / result.artifact).is_dir():
        kept = ", ".join(str(found.number) for found in ParetoFront.of(candidates).results)
        raise OutputError(
            f"the model of trial {result.number} was not kept; those of the front were: {kept}. `autoslim front` shows them"
        )
    return output.root / result.artifact


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


def _surroundings(
    output: RunFolder,
    job: SearchJob,
    result: TrialResult,
    facts: BaseFacts,
    goal: AccuracyGoal | None,
    mirror: Mirror,
    tell: Callable[[str], None],
) -> _Surroundings:
    dataset = search_images(output, job, mirror=mirror, tell=tell)
    names, model = base_names(job, dataset), result.recipe.model
    label = model if model in names else next(iter(names))
    taught_by = teacher_spec(job, facts, label)
    teacher = None if taught_by is None else output.base(base_request(job, taught_by, dataset).digest())
    for folder in (output.cache / names[label], teacher):
        if folder is not None and not (mirror.fetch(folder) and folder.is_dir()):
            raise OutputError(
                f"a dense model of the search is gone: {folder} does not exist; autoslim search --resume makes it again"
            )
    probe = prepare_probe(job.probe, job.dataset, output.cache, seed=job.seed, tell=tell)
    dense = output.cache / names[label]
    return _Surroundings(dense=dense, teacher=teacher, dataset=dataset, probe=probe, facts=facts, goal=goal)


def search_images(
    output: RunFolder, job: SearchJob, *, mirror: Mirror = NO_MIRROR, tell: Callable[[str], None] | None = None
) -> PreparedDataset:
    """Those that the search has prepared, also where their source is gone; prepared again where the cache does not have them any more.
    `tell` as of `prepare_dataset`.

    Raises:
        DatasetError: they cannot be prepared; with unreadable images resuming goes on with those that are left.
    """
    environment = read_environment(output)
    if environment is not None:
        mirror.fetch(output.cache / PurePath(environment.dataset).name)
    kept = prepared_images(output, environment)
    if kept is not None:
        return kept
    try:
        return prepare_dataset(job.dataset, output.cache, seed=job.seed, tell=tell)
    except DatasetError as error:
        if not error.flags:
            raise
        # Fewer images are other data, on which the dense model has to be adapted again.
        resume = shlex.join(["autoslim", "search", "--resume", "--output", str(output.root), *error.flags])
        raise DatasetError(f"{error}. The search goes on with those that are left by: {resume}") from error


def _publish(output: RunFolder, job: SearchJob, selection: Selection, around: _Surroundings, source: Path) -> SelectedModel:
    """The model in `source` becomes that of the selection's label, in the place of one that is there."""
    folder = copy_model(source, output.model(selection.label))
    facts, model = around.facts, selection.result.recipe.model
    try:
        if around.goal is not None and around.dataset.classes:
            allowed = facts.dense_accuracy - around.goal.floor(facts.dense_accuracy).least
            drops = [drop.describe() for drop in measure_drops(folder, around.dense, around.dataset, allowed=allowed)]
            selection = dataclasses.replace(selection, reason="; ".join([selection.reason, *drops]))
        validation = facts.starts.get(model, facts).dense_accuracy
        holdout = evaluate_both(folder, around.dense, around.dataset, probe=around.probe, dense_validation=validation)
        forms = complete_selection(job, folder, selection, holdout, base=around.dense, facts=facts, dataset=around.dataset)
        move_folder(folder, output.model(selection.label))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return selected_model(selection, holdout, output.model(selection.label), forms)


# Fine-tuned for longer


def _tuned(
    output: RunFolder,
    job: SearchJob,
    selection: Selection,
    around: _Surroundings,
    source: Path,
    *,
    epochs: float,
    tell: Callable[[str], None],
) -> SelectedModel:
    score, before = job.dataset.score, load_config(source)
    # Named after the weights: after another fine-tuning nothing of this one is continued.
    work = output.cache / f"longer-{file_digest(source / 'model.safetensors')[:16]}-{epochs:g}"
    context = TrialContext.open(base=around.dense, dataset=around.dataset.path, teacher=around.teacher)
    tuned = _tell_all(tune_longer(source, context, work, epochs=epochs), before.recipe.training.epochs + epochs, score, tell)
    told = tuned.describe(score, around.dataset.report.validation.images)
    tell(told)
    earlier = () if before.made_from is None else before.made_from.tuned
    if tuned.is_better:
        after = load_config(work / "model")
        result = selection.result.replace(
            accuracy=tuned.after,
            flops=after.flops.held,
            flops_mean=after.flops.mean,
            flops_max=after.flops.max,
            epochs=after.recipe.training.epochs,
            kept_epoch=after.kept_epoch,
            seconds=(selection.result.seconds or 0.0) + tuned.seconds,
        )
        reason = f"{selection.reason}; then {told}"
        longer = dataclasses.replace(selection, result=result, reason=reason, tuned=(*earlier, epochs))
        model = _publish(output, job, longer, around, work / "model")
    elif source == output.model(selection.label):
        model = _as_it_is(selection, before, source)
    else:
        reason = f"{selection.reason}; {told}"
        model = _publish(output, job, dataclasses.replace(selection, reason=reason), around, source)
    shutil.rmtree(work, ignore_errors=True)
    return model.replace(tuned=tuned)


def _tell_all(
    reports: Generator[EpochReport, None, TunedLonger], epochs: float, score: Score, tell: Callable[[str], None]
) -> TunedLonger:
    while True:
        try:
            tell(epoch_line(next(reports), epochs, score))
        except StopIteration as end:
            found: TunedLonger = end.value
            return found


def _as_it_is(selection: Selection, config: SlimConfig, folder: Path) -> SelectedModel:
    """The model that was handed over before, and stays."""
    result = selection.result
    return SelectedModel(
        **{**result.measurements(), "accuracy": config.score_on("validation")},
        label=selection.label,
        budget=selection.budget,
        budget_share=config.flops.held / selection.budget,
        folder=str(folder),
        trial=result.number,
        method=result.recipe.method,
        model=result.recipe.model,
        test_accuracy=config.score_on("test") or 0.0,
        dense_test_accuracy=config.dense_score_on("test") or 0.0,
    )
