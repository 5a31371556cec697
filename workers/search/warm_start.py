"""`WarmStart`: what a search takes from earlier searches of the same dense model and images (`--reuse`).

A budget that an earlier search has a model for needs no trials: that model becomes a trial of this search, with the origin `reused`, and
is delivered like every other. Earlier trials that this search could have run itself are history for the sampler. What is taken is
written to `earlier.json` before the first trial, so that a resumed search continues with the same, whatever the earlier searches do.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from autoslim.core.confine import confined
from autoslim.core.files import publish_folder, write_atomically
from autoslim.core.job import SearchJob
from autoslim.core.plan import Plan
from autoslim.core.record import Record
from autoslim.core.result import ErrorClass, Origin, TrialResult, TrialState
from autoslim.core.run_folder import RunFolder
from autoslim.core.score import ACCURACY, Score
from autoslim.core.selection import best_within
from autoslim.cost import count_flops, predict
from autoslim.errors import TrialError
from autoslim.export.artifact import load, load_config
from autoslim.methods.layers.adaptive_trunk import static_shapes
from autoslim.search import Proposer
from autoslim.search.refinement import searched
from autoslim.search.samplers.optuna_replay import replay
from autoslim.storage.mirror import NO_MIRROR, Mirror
from autoslim.store import JobState, Store
from workers.search.earlier_searches import EarlierSearch, earlier_searches

_MODEL_FILES = ("config.json", "model.safetensors")
_ALIKE = 0.95
"""A budget from this share of another one up to it counts as the same: budgets such as 2.3 G and 50 % are often almost equal."""
_FORMER_FIELDS = {"answers": "models", "seeds": "history", "passed_over": "skipped"}
"""Former names of fields, which an `earlier.json` may still have."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReusedModel(Record):
    """The model of `trial` of the search `job`, whose output folder is `root`."""

    job: str
    root: str
    trial: TrialResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmStart(Record):
    """`models` by the budget's label; `history` for the sampler, numbered below zero; `base`, the output folder whose dense model is
    taken, or None; `skipped` has a line for each search that cannot be reused, with the reason.
    """

    models: dict[str, ReusedModel] = dataclasses.field(default_factory=dict)
    history: tuple[TrialResult, ...] = ()
    base: str | None = None
    skipped: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        if isinstance(data, dict):
            data = {_FORMER_FIELDS.get(name, name): value for name, value in data.items()}
        return super().from_dict(data)

    def describe(self, score: Score = ACCURACY) -> list[str]:
        """One line for each budget that needs no search, one for the history, one for each search that is skipped."""
        lines = [
            f"{label} takes the model of trial {reused.trial.number} ({reused.trial.recipe.title}) of {reused.job}, "
            f"{score.text(reused.trial.accuracy or 0.0, 2)} on the validation images"
            for label, reused in self.models.items()
        ]
        lines += [f"the sampler learns from {len(self.history)} trials of earlier searches"] if self.history else []
        return [*lines, *self.skipped]


# What there is to reuse


def find_warm_start(job: SearchJob, store: Store | None, proposer: Proposer, *, bases: Mapping[str, str]) -> WarmStart:
    """What the searches that `job.reuse` names offer. `bases` are the names of the dense models' folders in an output folder's cache, by
    the labels of the starts.

    Raises:
        RequestError: there is no such search.
    """
    usable, skipped = [], []
    for earlier in earlier_searches(job, store):
        labels = _shared_starts(job, earlier, bases)
        if labels:
            usable.append(_with_own_labels(earlier, labels))
        else:
            skipped.append(
                f"{earlier.stored.job.id} is not reused: its model, its data, its seed or the training of its dense model differs, "
                "or its checkpoints were deleted"
            )
    return WarmStart(
        models=_find_models(job, proposer, usable),
        history=_find_history(job, proposer, usable),
        base=str(usable[0].root) if usable else None,
        skipped=tuple(skipped),
    )


def _shared_starts(job: SearchJob, earlier: EarlierSearch, bases: Mapping[str, str]) -> dict[str, str]:
    """The label of this search by that of the earlier one, for each start that both have."""
    # The folder's name is a digest of everything that the dense model depends on: equal names mean equal models and images.
    there = [label for label, name in bases.items() if (RunFolder(earlier.root).cache / name / "facts.json").is_file()]
    before = earlier.stored.job
    if not job.more_models and not before.more_models:
        return {label: label for label in there}
    return {theirs: label for label in there for theirs, spec in before.starts.items() if spec == job.starts[label]}


def _with_own_labels(earlier: EarlierSearch, labels: Mapping[str, str]) -> EarlierSearch:
    """The earlier search with the trials of these starts alone, under the labels of this search."""
    named = [
        result.replace(recipe=result.recipe.replace(model=labels[model]))
        for model, result in _by_start(earlier)
        if model in labels
    ]
    return dataclasses.replace(earlier, results=named)


def _by_start(earlier: EarlierSearch) -> Iterator[tuple[str, TrialResult]]:
    first = next(iter(earlier.stored.job.starts))
    for result in earlier.results:
        yield result.recipe.model or first, result


def _find_models(job: SearchJob, proposer: Proposer, usable: Sequence[EarlierSearch]) -> dict[str, ReusedModel]:
    """For each budget the most accurate of the models that the searches selected for it, and of equal ones the cheapest."""
    models = {}
    for label, flops in proposer.budgets.items():
        found = [model for earlier in usable if (model := _find_model(job, proposer, earlier, flops)) is not None]
        if found:
            models[label] = max(found, key=lambda model: (model.trial.accuracy or 0.0, -(model.trial.flops or 0)))
    return models


def _find_model(job: SearchJob, proposer: Proposer, earlier: EarlierSearch, flops: int) -> ReusedModel | None:
    # A search that has not ended might still find a better model. A latency was measured on another machine, perhaps.
    if earlier.stored.state is not JobState.COMPLETE or job.limits.latency_ms is not None:
        return None
    usable = [result for result in earlier.results if _is_deliverable(job, proposer, earlier.root, result)]
    # Only where the earlier search solved recipes for this budget, or for one just below it, is its best model within the budget
    # taken, even a cheaper one. Else this search may find a better use of the FLOPs that are left.
    dense_flops = predict(proposer.shape, Plan.dense(proposer.shape)).total
    if earlier.stored.job.more_models and earlier.stored.base is not None:
        # Shares refer to the first start of the search that they were given to.
        dense_flops = earlier.stored.base.dense_flops
    alike = [budget for budget in earlier.stored.job.budget_flops(dense_flops).values() if _ALIKE * flops <= budget <= flops]
    if not any(result.recipe.budget in alike for result in usable):
        return None
    selected = best_within(usable, flops, job.limits)
    if selected is None:
        return None
    return ReusedModel(job=earlier.stored.job.id, root=str(earlier.root), trial=selected)


def _is_deliverable(job: SearchJob, proposer: Proposer, root: Path, result: TrialResult) -> bool:
    """Whether the trial is complete, its recipe in this search's space and trained at least as long, and its model still exists."""
    recipe = result.recipe
    return (
        result.state is TrialState.COMPLETE
        and recipe.training.epochs >= job.training.epochs
        and (recipe.class_query, recipe.bound) == (job.class_query, job.bound)
        and _in_space(proposer, result)
        and _model_folder(root, result) is not None
    )


def _find_history(job: SearchJob, proposer: Proposer, usable: Sequence[EarlierSearch]) -> tuple[TrialResult, ...]:
    taught_alike = [earlier for earlier in usable if _has_same_teachers(job, earlier.stored.job)]
    own = [result for earlier in taught_alike for result in earlier.results if _is_comparable(job, proposer, result)]
    # Numbers below zero, in order: the sampler's own trials begin at zero. Without a folder none of them can be selected.
    return tuple(result.replace(number=place - len(own), artifact=None) for place, result in enumerate(own))


def _has_same_teachers(job: SearchJob, earlier: SearchJob) -> bool:
    """Whether the trials of a start learn from the same teacher in both searches."""
    one_each = not job.more_models and not earlier.more_models
    same = len(job.models) == len(earlier.models) and all(model in earlier.models for model in job.models)
    return job.teacher == earlier.teacher and (one_each or same)


def _is_comparable(job: SearchJob, proposer: Proposer, result: TrialResult) -> bool:
    """Whether this search could have run the trial itself, and its end says something about its recipe.

    A failed trial does so only where it diverged. The training settings that are searched may differ, all others must be equal.
    """
    recipe = result.recipe
    informative = result.state in (TrialState.COMPLETE, TrialState.STOPPED, TrialState.INFEASIBLE)
    searched_settings = {name: getattr(job.training, name) for name in proposer.space.training}
    return (
        (informative or result.error_class == ErrorClass.DIVERGED)
        and result.duplicate_of is None
        and bool(searched([result]))
        and recipe.training.replace(**searched_settings) == job.training
        and (recipe.class_query, recipe.bound, recipe.limits) == (job.class_query, job.bound, job.limits)
        and _in_space(proposer, result)
    )


def _in_space(proposer: Proposer, result: TrialResult) -> bool:
    start = proposer.by_model[result.recipe.model]
    units = list(start.feasibility)
    return replay(result.recipe, proposer.space, proposer.methods, start.builder.shape, units=units) is not None


def _model_folder(root: Path, result: TrialResult) -> Path | None:
    """The model's folder, or None where a file is missing. A path that leaves the search's own folder is never followed."""
    if result.artifact is None:
        return None
    folder = confined(root / result.artifact, root)
    return folder if folder is not None and all((folder / name).is_file() for name in _MODEL_FILES) else None


# How it is reused


def apply_warm_start(
    job: SearchJob,
    store: Store,
    proposer: Proposer,
    output: RunFolder,
    *,
    bases: Mapping[str, str],
    mirror: Mirror = NO_MIRROR,
) -> tuple[Proposer, WarmStart]:
    """The proposer for the budgets that are left, with the history; the models that are reused become trials in the store, and their files
    those of this search.

    Raises:
        RequestError: there is no search of a given name.
        TrialError: a model is not what its search recorded.
    """
    warm_start = _read_or_find(job, store, proposer, output, bases=bases)
    for name in bases.values():
        _copy_dense_model(warm_start, output, name)
        if (output.cache / name).is_dir():
            mirror.keep_once(output.cache / name)
    known = {result.reused_from for result in store.trials(job.id) if result.origin == Origin.REUSED}
    for label, reused in warm_start.models.items():
        name = f"trial {reused.trial.number} of {reused.job}"
        if name not in known:
            trial = _copy_model(reused, name, output, number=len(store.trials(job.id)))
            mirror.keep(output.root / (trial.artifact or ""))
            store.add_ended_trial(job.id, trial, target=label)
    left = {label: flops for label, flops in proposer.budgets.items() if label not in warm_start.models}
    return dataclasses.replace(proposer, budgets=left, earlier=warm_start.history), warm_start


def _read_or_find(job: SearchJob, store: Store, proposer: Proposer, output: RunFolder, *, bases: Mapping[str, str]) -> WarmStart:
    """An earlier attempt's warm start as it was written: the same history gives the same proposals."""
    file = output.warm_start
    if file.is_file():
        return WarmStart.from_json(file.read_text())
    warm_start = find_warm_start(job, store, proposer, bases=bases)
    write_atomically(file, warm_start.to_json(indent=1))
    return warm_start


def _copy_dense_model(warm_start: WarmStart, output: RunFolder, base: str) -> None:
    destination = output.cache / base
    if warm_start.base is None or destination.exists():
        return
    source = RunFolder(Path(warm_start.base)).cache / base
    if source.is_dir():
        with publish_folder(destination) as partial:
            # Without its cost, which the earlier search has paid.
            shutil.copytree(source, partial, ignore=shutil.ignore_patterns("cost.json"), dirs_exist_ok=True)


def _copy_model(reused: ReusedModel, name: str, output: RunFolder, *, number: int) -> TrialResult:
    """The model as trial `number` of this search, after its FLOPs have been counted again."""
    trial, source = reused.trial, _model_folder(Path(reused.root), reused.trial)
    if source is None:
        raise TrialError(f"the model of {name}, which is to be reused, no longer exists; start the search in another --output")
    destination = output.trial(trial.recipe.key) / "model"
    with publish_folder(destination) as partial:
        for file in _MODEL_FILES:
            shutil.copyfile(source / file, partial / file)
        _check_model(partial, trial, name)
    artifact = str(destination.relative_to(output.root))
    # No seconds and no epochs: this search has spent none on it.
    return trial.replace(
        number=number, origin=Origin.REUSED, reused_from=name, artifact=artifact, seconds=0.0, epochs=0.0, duplicate_of=None
    )


def _check_model(folder: Path, trial: TrialResult, name: str) -> None:
    """Raises TrialError where the model is another one than the trial's: the budget is promised for what is delivered."""
    config, model = load_config(folder), load(folder)
    with static_shapes(model):
        flops = count_flops(model, config.shape.image_size)
    # The earlier search may have had another label for the dense model.
    recipe = config.recipe.replace(model=trial.recipe.model)
    if flops != config.flops.fvcore or recipe != trial.recipe:
        raise TrialError(
            f"the model of {name} has {flops} multiply-accumulates, its search recorded {config.flops.fvcore}, or its recipe is "
            "another one: it is not the model that its search delivered"
        )
