"""The end of a search: the selected models are copied, evaluated by a new process, completed and published in `models/`."""

from __future__ import annotations

import dataclasses
import functools
import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import ray

from autoslim.core.files import is_disk_full, move_folder, partial_folder
from autoslim.core.job import Resources, SearchJob
from autoslim.core.record import OPTIONAL
from autoslim.core.result import BaseFacts, Measurements, ParetoFront, TrialResult
from autoslim.core.run_folder import RunFolder
from autoslim.core.selection import eligible
from autoslim.data import PreparedDataset, open_reference
from autoslim.errors import AutoslimError
from autoslim.export.artifact import LatencyReport
from autoslim.report.finalize import Handover, HoldoutResults, Provenance, RequestedBudget, complete_folder, relabel_folder
from autoslim.storage.mirror import NO_MIRROR, Mirror
from autoslim.training.feature_evaluation import ProbeResult
from autoslim.training.holdout import HoldoutResult, evaluate_in_subprocess
from autoslim.training.longer import TunedLonger
from workers.search.dense_models import DenseModels
from workers.search.made_from import made_from
from workers.search.task_watch import TaskWatch, WatchedTask

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """The trial whose model is delivered for a budget of multiply-accumulates, and why; `latency` where the job limits it. `tuned` are the
    epochs of each fine-tuning after the trial."""

    label: str
    budget: int
    result: TrialResult
    reason: str
    latency: LatencyReport | None = None
    tuned: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectedModel(Measurements):
    """A delivered model, with the measurements of its trial. `budget_share` is flops / budget; `model` is the label of the dense model that
    it was made from, where the search has several.

    Accuracies are top-1 shares, or what `Score` the search compares; those on the test images are measured on the folders, by a new
    process. `probe` is k-NN top-1 of the features on a labelled set, `forms` the top-1 share of each exported file by its own runtime.
    `tuned` is how a fine-tuning after the search ended.
    """

    label: str
    budget: int
    budget_share: float
    folder: str
    trial: int
    method: str
    model: str = dataclasses.field(default="", metadata=OPTIONAL)
    test_accuracy: float
    dense_test_accuracy: float
    probe: ProbeResult | None = dataclasses.field(default=None, metadata=OPTIONAL)
    latency: LatencyReport | None = None
    tuned: TunedLonger | None = dataclasses.field(default=None, metadata=OPTIONAL)
    forms: dict[str, float] = dataclasses.field(default_factory=dict, metadata=OPTIONAL)


@ray.remote(max_retries=2)  # type: ignore[untyped-decorator]
def _evaluate(watch: TaskWatch, folder: str, dataset: str, split: str, dense: str | None, probe: str | None) -> str:
    """`dataset` and `probe` are references."""
    mirror = Mirror.of(watch.output)
    with watch.watching() as stalls:
        with stalls.working():
            compared = {} if dense is None else {"dense": mirror.fetched(dense)}
            compared |= {} if probe is None else {"probe": open_reference(probe, tell=_log.info).path}
            model, images = mirror.fetched(folder), open_reference(dataset, tell=_log.info)
        return evaluate_in_subprocess(model, images.path, split, **compared, stall_seconds=watch.seconds).to_json()


def evaluate_folders(
    job: SearchJob,
    output: RunFolder,
    folders: Mapping[str, Path],
    dataset: PreparedDataset,
    *,
    split: str,
    compared: Mapping[str, Path] | None = None,
    probe: PreparedDataset | None = None,
    mirror: Mirror = NO_MIRROR,
) -> list[HoldoutResult]:
    """One result a folder, each from a Ray task with a trial's resources; `folders` have the models' names as keys. For models of features
    `compared` has by the same names the folders of the dense models, and `probe` is the labelled set of `evaluate_in_subprocess`.

    Raises:
        JobError: a folder does not load, or loads only with the search's packages, or the task hung in all of its tries.
    """
    resources = job.resources or Resources()
    watches = {name: TaskWatch.of(f"evaluate {name} on {split} images", job, output, mirror) for name in folders}
    submits = {
        name: functools.partial(
            _evaluate.options(num_cpus=resources.cpu, num_gpus=resources.gpu, name=f"{job.id} {watches[name].what}").remote,
            watches[name],
            mirror.name(folder),
            dataset.reference,
            split,
            None if compared is None else mirror.name(compared[name]),
            None if probe is None else probe.reference,
        )
        for name, folder in folders.items()
    }
    tasks = [WatchedTask.begin(submits[name], watches[name]) for name in folders]
    return [HoldoutResult.from_json(task.result("a model could not be evaluated")) for task in tasks]


def finalize_models(
    job: SearchJob,
    output: RunFolder,
    selections: Sequence[Selection],
    *,
    dense: DenseModels,
    dataset: PreparedDataset,
    probe: PreparedDataset | None = None,
    mirror: Mirror = NO_MIRROR,
) -> tuple[list[SelectedModel], list[str]]:
    """Publishes `models/<budget>/` for every selection; the second list has, for each model that could not be completed, why. `probe` is a
    labelled set for models of features.

    A model that an earlier attempt has published stays until its successor is complete. Each model is compared with
    the dense one that it was made from. One that several labels have chosen is evaluated and exported once. With a `mirror` the models come
    from the store, and the finished ones go there.

    Raises:
        OSError: the disk is full; nothing else can be completed then either.
    """
    first = _first_labels(selections)
    own = [selection for selection in selections if first[selection.label] == selection.label]
    for one in own:
        mirror.refresh(output.root / (one.result.artifact or ""))
        mirror.fetch(dense.folder(one.result.recipe.model))
    copies = {one.label: copy_model(output.root / (one.result.artifact or ""), output.model(one.label)) for one in own}
    # Other machines have the trials' own folders, of which these are copies so far.
    judged = [copies[one.label] if mirror.uri is None else output.root / (one.result.artifact or "") for one in own]
    evaluated = _evaluate_all(job, output, own, judged, dense=dense, dataset=dataset, probe=probe, mirror=mirror)
    forms: dict[str, dict[str, float]] = {}
    models, failed = list[SelectedModel](), dict[str, str]()
    for selection in selections:
        label, source, destination = selection.label, first[selection.label], output.model(selection.label)
        if source in failed:
            failed[label] = failed[source]
            continue
        folder = copies[label] if label in copies else copy_model(output.model(source), destination)
        holdout, start = evaluated[source], dense.of(selection.result.recipe.model)
        try:
            if label == source:
                forms[label] = complete_selection(
                    job, folder, selection, holdout, base=start.folder, facts=dense.facts, dataset=dataset
                )
            else:
                _relabel(job, folder, selection, source, facts=dense.facts, dataset=dataset)
        except (AutoslimError, OSError) as error:
            if is_disk_full(error):
                raise
            # One model that cannot be completed must not cost the user the others.
            failed[label] = str(error)
            shutil.rmtree(folder, ignore_errors=True)
            continue
        move_folder(folder, destination)
        mirror.publish(destination, last="config.json")
        models.append(selected_model(selection, holdout, destination, forms[source]))
    trials = {selection.label: selection.result.number for selection in selections}
    return models, [f"{label} (trial {trials[label]}): {reason}" for label, reason in failed.items()]


def _first_labels(selections: Sequence[Selection]) -> dict[str, str]:
    """By the label of each selection that of the first one with the same model; a duplicate has the folder of the trial that it repeats."""
    by_folder: dict[str | None, str] = {}
    return {one.label: by_folder.setdefault(one.result.artifact, one.label) for one in selections}


def _relabel(
    job: SearchJob, folder: Path, selection: Selection, source: str, *, facts: BaseFacts, dataset: PreparedDataset
) -> None:
    """`folder` is a copy of the complete one of the label `source`."""
    provenance = _provenance(job, selection, facts)
    relabel_folder(
        folder,
        requested=_requested(job, selection),
        dataset=dataset,
        provenance=dataclasses.replace(provenance, reason=f"{provenance.reason}; it is the same model as that of {source}"),
    )


def _evaluate_all(
    job: SearchJob,
    output: RunFolder,
    selections: Sequence[Selection],
    folders: Sequence[Path],
    *,
    dense: DenseModels,
    dataset: PreparedDataset,
    probe: PreparedDataset | None,
    mirror: Mirror,
) -> dict[str, HoldoutResults]:
    """Of each selection beside its dense model, by its label. All folders at once, so that the cluster evaluates them side by side."""
    starts = {selection.result.recipe.model: f"dense model {selection.result.recipe.model}".strip() for selection in selections}
    named = dict(zip([selection.label for selection in selections], folders, strict=True))
    compared: dict[str, Path] | None = None
    if job.dataset.labelled:
        named |= {name: dense.folder(model) for model, name in starts.items()}
    else:
        compared = {one.label: dense.folder(one.result.recipe.model) for one in selections}
    found = evaluate_folders(job, output, named, dataset, split="test", compared=compared, probe=probe, mirror=mirror)
    evaluated = dict(zip(named, found, strict=True))
    return {
        one.label: HoldoutResults(
            slimmed=evaluated[one.label],
            dense=evaluated[starts[one.result.recipe.model]] if job.dataset.labelled else evaluated[one.label].of_dense(),
            dense_validation=dense.of(one.result.recipe.model).facts.dense_accuracy,
        )
        for one in selections
    }


def copy_model(folder: Path, destination: Path) -> Path:
    """A copy of a model's folder beside the one where it is published, to be completed there."""
    partial = partial_folder(destination)
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(folder, partial)
    return partial


def complete_selection(
    job: SearchJob,
    folder: Path,
    selection: Selection,
    holdout: HoldoutResults,
    *,
    base: Path,
    facts: BaseFacts,
    dataset: PreparedDataset,
) -> dict[str, float]:
    """The top-1 share of each exported file on the test images. `base` is the dense model that the trial started from, `facts` are those of
    all dense models of the job."""
    return complete_folder(
        folder,
        requested=_requested(job, selection),
        holdout=holdout,
        dataset=dataset,
        provenance=_provenance(job, selection, facts),
        dense=base,
        handover=Handover.of(job),
    )


def _requested(job: SearchJob, selection: Selection) -> RequestedBudget:
    return RequestedBudget(budget=selection.budget, label=selection.label, limits=job.limits, latency=selection.latency)


def _provenance(job: SearchJob, selection: Selection, facts: BaseFacts) -> Provenance:
    return Provenance(
        job=job.id,
        trial=selection.result.number,
        source=job.dataset.source,
        reason=selection.reason,
        made_from=made_from(job, selection.result, facts, label=selection.label, tuned=selection.tuned),
    )


def selected_model(selection: Selection, holdout: HoldoutResults, folder: Path, forms: dict[str, float]) -> SelectedModel:
    result = selection.result
    assert result.flops is not None
    return SelectedModel(
        **result.measurements(),
        label=selection.label,
        budget=selection.budget,
        budget_share=result.flops / selection.budget,
        folder=str(folder),
        trial=result.number,
        method=result.recipe.method,
        model=result.recipe.model,
        test_accuracy=holdout.slimmed.accuracy,
        dense_test_accuracy=holdout.dense.accuracy,
        probe=None if holdout.slimmed.features is None else holdout.slimmed.features.probe,
        latency=selection.latency,
        forms=forms,
    )


def delete_unselected_models(
    output: RunFolder, results: Sequence[TrialResult], selected: Collection[int], *, mirror: Mirror = NO_MIRROR
) -> None:
    """Deletes the folders of models that are neither on the front nor among the `selected` trials; their rows stay in the store."""
    # Without the recipes that several seeds have shown to be worse, the front has other points, which `pick` may hand over.
    fronts = (ParetoFront.of(results), ParetoFront.of(eligible(results)))
    kept = {*selected, *(result.number for front in fronts for result in front.results)}
    for result in results:
        # A duplicate has the folder of the trial that it repeats.
        if result.artifact is not None and result.number not in kept and result.duplicate_of is None:
            mirror.delete((output.root / result.artifact).parent)
