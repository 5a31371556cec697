"""`--reuse`: what earlier searches of the same dense model and data know already.

A budget that one of them has answered is answered at once: its model is taken over as a trial of this search, under the origin `reused`,
and goes the way of every model that is handed over. Other trials of theirs that could have been this search's are the sampler's history.
What is taken is written down before the first trial, so that a search that is resumed goes on with the same.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

from autoslim.core.files import publish_folder, write_atomically
from autoslim.core.job import SearchJob
from autoslim.core.record import Record
from autoslim.core.result import TrialResult, TrialState
from autoslim.core.run_folder import RunFolder
from autoslim.core.urls import default_url
from autoslim.cost import count_flops
from autoslim.errors import DivergedError, OutputError, RequestError, TrialError
from autoslim.export.artifact import load, load_config
from autoslim.methods.layers.adaptive_trunk import padded
from autoslim.search import Proposer, choose, fills
from autoslim.search.refinement import REUSED, searched
from autoslim.search.samplers.optuna_study import replay
from autoslim.store import JobState, Store, StoredJob

ALL = "all"
_MODEL = ("config.json", "model.safetensors")


@dataclasses.dataclass(frozen=True)
class Earlier:
    """A search of the same dense model and data; `root` is its output folder."""

    stored: StoredJob
    root: Path
    results: list[TrialResult]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReusedModel(Record):
    """`trial` of the search `job`, whose output folder is `root`."""

    job: str
    root: str
    trial: TrialResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmStart(Record):
    """`answers` by the budget's label, `seeds` for the sampler; `base` is the output folder that the dense model is taken from, where there
    is one; `passed_over` says of the searches that nothing is taken from, why.
    """

    answers: dict[str, ReusedModel] = dataclasses.field(default_factory=dict)
    seeds: tuple[TrialResult, ...] = ()
    base: str | None = None
    passed_over: tuple[str, ...] = ()

    @property
    def told(self) -> list[str]:
        lines = [
            f"{label} is answered by trial {answer.trial.number} ({answer.trial.recipe.method}) of {answer.job}, "
            f"{answer.trial.accuracy or 0.0:.2%} on the validation images"
            for label, answer in self.answers.items()
        ]
        lines += [f"{len(self.seeds)} trials of earlier searches teach the sampler"] if self.seeds else []
        return [*lines, *(f"nothing is reused of {reason}" for reason in self.passed_over)]


def find_reusable(job: SearchJob, store: Store | None, proposer: Proposer, *, base: str) -> WarmStart:
    """What the searches that `job.reuse` names have for it; `base` is the folder of the dense model in an output folder's cache.

    Raises:
        RequestError: for a search that there is not.
    """
    fitting, passed_over = [], []
    for earlier in _named(job, store):
        if (RunFolder(earlier.root).cache / base / "facts.json").is_file():
            fitting.append(earlier)
        else:
            passed_over.append(
                f"{earlier.stored.job.id}: its model, its data, its seed, or how its model was adapted are not the same"
            )
    answers = {}
    for label, flops in proposer.budgets.items():
        found = [answer for earlier in fitting if (answer := _answer(job, proposer, earlier, flops)) is not None]
        if found:
            answers[label] = max(found, key=lambda answer: (answer.trial.accuracy or 0.0, -(answer.trial.flops or 0)))
    seeds = [result for earlier in fitting for result in earlier.results if _could_be_ours(job, proposer, result)]
    return WarmStart(
        answers=answers,
        seeds=tuple(result.replace(number=place - len(seeds), artifact=None) for place, result in enumerate(seeds)),
        base=str(fitting[0].root) if fitting else None,
        passed_over=tuple(passed_over),
    )


def _named(job: SearchJob, store: Store | None) -> Iterator[Earlier]:
    """Each one once, in the order they are named."""
    seen = {job.id}
    for source in job.reuse:
        for earlier in _of_folder(source, job, store) if "/" in source else _of_store(source, store):
            if earlier.stored.job.id not in seen:
                seen.add(earlier.stored.job.id)
                yield earlier


def _of_folder(source: str, job: SearchJob, store: Store | None) -> Iterator[Earlier]:
    output = RunFolder(Path(source))
    try:
        found = output.read_job()
    except OutputError as error:
        raise RequestError(f"--reuse {source}: {error}") from error
    if found.storage is not None:
        # Whoever made the folder does not say where this process connects to.
        if store is None or found.storage != job.storage:
            raise RequestError(
                f"--reuse {source}: its trials are in another store than this search's; allowed: the same --storage for both"
            )
        yield Earlier(store.job(found.id), output.root, store.trials(found.id))
        return
    if not (output.root / "autoslim.db").is_file():
        raise RequestError(f"--reuse {source}: it has no autoslim.db with its trials")
    with Store(default_url(output.root)) as own:
        yield Earlier(own.job(found.id), output.root, own.trials(found.id))


def _of_store(source: str, store: Store | None) -> Iterator[Earlier]:
    if store is None:
        raise RequestError(f"--reuse {source}: is looked for in --storage, and there is none; allowed: a folder, with a / in it")
    for stored in store.jobs() if source == ALL else [store.job(source)]:
        yield Earlier(stored, Path(stored.job.output), store.trials(stored.job.id))


def _answer(job: SearchJob, proposer: Proposer, earlier: Earlier, flops: int) -> ReusedModel | None:
    """Its choice for this budget, where that was solved onto it or fills it. A latency is another machine's, and answers nothing."""
    if earlier.stored.state is not JobState.COMPLETE or job.limits.latency_ms is not None:
        return None
    usable = [result for result in earlier.results if _is_usable(job, proposer, earlier.root, result)]
    chosen = choose(usable, {"": flops}, job.limits).get("")
    if chosen is None or not (chosen.recipe.budget == flops or fills(chosen, flops)):
        return None
    return ReusedModel(job=earlier.stored.job.id, root=str(earlier.root), trial=chosen)


def _is_usable(job: SearchJob, proposer: Proposer, root: Path, result: TrialResult) -> bool:
    """Complete, of this search's space, trained at least as long, and its model is there."""
    recipe = result.recipe
    return (
        result.state is TrialState.COMPLETE
        and recipe.training.epochs >= job.training.epochs
        and (recipe.class_query, recipe.bound) == (job.class_query, job.bound)
        and _in_space(proposer, result)
        and _folder_of(root, result) is not None
    )


def _could_be_ours(job: SearchJob, proposer: Proposer, result: TrialResult) -> bool:
    """A trial of the same settings, but for those that are searched; one that says something of its recipe."""
    recipe, told = result.recipe, result.state in (TrialState.COMPLETE, TrialState.STOPPED, TrialState.INFEASIBLE)
    ours = {name: getattr(job.training, name) for name in proposer.space.training}
    return (
        (told or result.error_class == DivergedError.__name__)
        and result.duplicate_of is None
        and bool(searched([result]))
        and recipe.training.replace(**ours) == job.training
        and (recipe.class_query, recipe.bound, recipe.limits) == (job.class_query, job.bound, job.limits)
        and _in_space(proposer, result)
    )


def _in_space(proposer: Proposer, result: TrialResult) -> bool:
    return (
        replay(result.recipe, proposer.space, {name: proposer.methods[name] for name in proposer.feasibility}, proposer.shape)
        is not None
    )


def _folder_of(root: Path, result: TrialResult) -> Path | None:
    """The model's folder, where it is there; nothing outside of the search's own folder is looked at."""
    if result.artifact is None:
        return None
    folder = (root / result.artifact).resolve()
    return folder if folder.is_relative_to(root.resolve()) and all((folder / name).is_file() for name in _MODEL) else None


# Taking it


def apply_warm_start(
    job: SearchJob, store: Store, proposer: Proposer, output: RunFolder, *, base: str
) -> tuple[Proposer, WarmStart]:
    """The proposer for what is left to search for: without the budgets that are answered, and with the seeds.

    Raises:
        RequestError: as `find_reusable`.
        TrialError: for a model that is not what its search said.
    """
    taken = _kept(job, store, proposer, output, base=base)
    _take_base(taken, output, base)
    have = {result.reused_from: result for result in store.trials(job.id) if result.origin == REUSED}
    for label, answer in taken.answers.items():
        name = f"trial {answer.trial.number} of {answer.job}"
        if name not in have:
            have[name] = _take_over(answer, name, output, number=len(store.trials(job.id)))
            store.add_ended_trial(job.id, have[name], target=label)
    left = {label: flops for label, flops in proposer.budgets.items() if label not in taken.answers}
    return dataclasses.replace(proposer, budgets=left, earlier=taken.seeds), taken


def _kept(job: SearchJob, store: Store, proposer: Proposer, output: RunFolder, *, base: str) -> WarmStart:
    if output.earlier.is_file():
        return WarmStart.from_json(output.earlier.read_text())
    taken = find_reusable(job, store, proposer, base=base)
    write_atomically(output.earlier, taken.to_json(indent=1))
    return taken


def _take_base(taken: WarmStart, output: RunFolder, base: str) -> None:
    """The dense model need not be adapted again, and has cost this search nothing."""
    target = output.cache / base
    if taken.base is None or target.exists():
        return
    source = RunFolder(Path(taken.base)).cache / base
    if source.is_dir():
        with publish_folder(target) as partial:
            shutil.copytree(source, partial, ignore=shutil.ignore_patterns("cost.json"), dirs_exist_ok=True)


def _take_over(answer: ReusedModel, name: str, output: RunFolder, *, number: int) -> TrialResult:
    """Copies the model, and counts it again."""
    trial, source = answer.trial, _folder_of(Path(answer.root), answer.trial)
    if source is None:
        raise TrialError(f"the model of {name}, which was to be reused, is not there any more; begin the search anew")
    target = output.trial(trial.recipe.key) / "model"
    with publish_folder(target) as partial:
        for file in _MODEL:
            shutil.copyfile(source / file, partial / file)
        config = load_config(partial)
        model = load(partial)
        with padded(model):
            flops = count_flops(model, config.shape.image_size)
        if flops != config.flops.fvcore or config.recipe != trial.recipe:
            raise TrialError(
                f"the model of {name} has {flops} multiply-accumulates, or another recipe: it is not what its search handed in"
            )
    artifact = str(target.relative_to(output.root))
    return trial.replace(
        number=number, origin=REUSED, reused_from=name, artifact=artifact, seconds=0.0, epochs=0.0, duplicate_of=None
    )
