"""A finished model made again from its configuration alone, and compared with the original: to the bit, or by how much not.

config.json, model.safetensors, README.md, ...    the model that was made again
reproduce.json, reproduced.json                   what was asked for, and how the comparison ended
work/                                             prepared images and checkpoints; deleted at the end
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import safetensors.torch
import torch

from autoslim.core.files import write_atomically
from autoslim.core.folder_lock import LOCK, FolderLock, FolderUse, refuse_other_use
from autoslim.core.interval import Interval
from autoslim.core.made_from import MadeFrom
from autoslim.core.record import Record
from autoslim.core.result import BaseFacts
from autoslim.data import PreparedDataset
from autoslim.errors import OutputError
from autoslim.export.artifact import load_config, versions
from autoslim.models.weights import file_digest
from autoslim.progress.display import Display
from autoslim.report.finalize import Handover, Provenance, RequestedBudget, complete_folder, evaluate_both
from autoslim.slimming.follow import run_to_end
from autoslim.slimming.remaking import Remaking
from autoslim.training import TrialContext, prepare_base, run_trial
from autoslim.training.comparison import compare_folders
from autoslim.training.longer import tune_longer

_WEIGHTS = "model.safetensors"
_REQUEST, _RESULT = "reproduce.json", "reproduced.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reproduced(Record):
    """The model in `folder` beside the one in `original`. `same` is whether the weights are equal to the bit, `dense_same` whether those of
    the adapted dense model are.

    `largest_difference` is that of any weight, None where the models have other shapes. `flops` and `original_flops` are
    multiply-accumulates an image, `score` and `original_score` are test scores, measured here. `difference` is the first less the second
    with its paired interval; None for models of features. `versions` maps a package to its version here and there where they differ.
    """

    folder: str
    original: str
    same: bool
    dense_same: bool
    weights_digest: str
    original_digest: str
    largest_difference: float | None
    flops: int
    original_flops: int
    score: float
    original_score: float
    difference: Interval | None
    images: int
    versions: dict[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Request(Record):
    """What an interrupted run continues only where it is the same."""

    made_from: MadeFrom


def reproduce(original: Path, output: Path, *, data: str | None, model: str | None, display: Display) -> Reproduced:
    """Makes the model in `original` again, in `output`; an interrupted run is continued by the same call. It is shown on `display`.

    `data` and `model` take the place of what the configuration names: the data set, and the dense model as a name or folder.

    Raises:
        RequestError: the configuration, the data or the dense model does not suffice; names what is missing, and the flag to give it with.
        OutputError: `output` holds something else.
    """
    # Before anything of the original is read: a folder that is somebody else's is told first.
    refuse_other_use(output, FolderUse.REPRODUCE)
    remaking = Remaking.of(original, data=data, model=model)
    _refuse_others(output, remaking.made_from)
    with FolderLock(output, FolderUse.REPRODUCE):
        if (output / _RESULT).is_file():
            display.line(f"{output} holds this model already")
            return Reproduced.from_json((output / _RESULT).read_text())
        write_atomically(output / _REQUEST, _Request(made_from=remaking.made_from).to_json(indent=1) + "\n")
        threads = torch.get_num_threads()
        # The order of sums, and with it the last bits of the weights, depends on them.
        torch.set_num_threads(remaking.made_from.threads)
        try:
            return _reproduce(remaking, output, display)
        finally:
            torch.set_num_threads(threads)


def _refuse_others(output: Path, made_from: MadeFrom) -> None:
    if (output / _REQUEST).is_file():
        if _Request.from_json((output / _REQUEST).read_text()).made_from != made_from:
            raise OutputError(f"--output {output} was started for another model, --data or --model; give another folder")
        return
    others = sorted(entry.name for entry in output.iterdir() if entry.name != LOCK) if output.is_dir() else []
    if others:
        raise OutputError(f"--output {output} holds {others[0]}; give a new folder")


def _reproduce(remaking: Remaking, output: Path, display: Display) -> Reproduced:
    work, made_from, score = output / "work", remaking.made_from, remaking.config.score
    dataset, probe = remaking.prepare(work / "data", display.detail)
    base, facts = _dense(remaking, dataset, work, display, teacher=False)
    teacher = None if made_from.teacher is None else _dense(remaking, dataset, work, display, teacher=True)[0]
    context = TrialContext.open(
        base=base, dataset=dataset.path, teacher=teacher, shared_training=made_from.shared_training, shared_folder=work / "shared"
    )
    model = work / "trial" / "model"
    if not (model / "config.json").is_file():
        reports = run_trial(made_from.recipe, context, work / "trial", budget_label=made_from.budget_label)
        run_to_end(reports, made_from.recipe.method, made_from.recipe.training.epochs, display, score)
    for number, epochs in enumerate(made_from.tuned):
        longer = work / f"longer-{number}"
        if not (longer / "model" / "config.json").is_file():
            total = load_config(model).recipe.training.epochs + epochs
            run_to_end(tune_longer(model, context, longer, epochs=epochs), "fine-tuning", total, display, score)
        model = longer / "model"
    display.line(f"evaluating it and the original on {dataset.report.test.images:,} test images")
    holdout = evaluate_both(model, base, dataset, probe=probe, dense_validation=facts.dense_accuracy)
    flops = remaking.config.flops
    complete_folder(
        model,
        requested=RequestedBudget(budget=flops.budget, label=flops.budget_label, limits=remaking.config.limits),
        holdout=holdout,
        dataset=dataset,
        provenance=Provenance(source=made_from.dataset.source, made_from=made_from),
        dense=base,
        handover=Handover(speed=()),
    )
    shutil.copytree(model, output, dirs_exist_ok=True)
    found = _compared(remaking, output, base, dataset, score=holdout.slimmed.accuracy)
    write_atomically(output / _RESULT, found.to_json(indent=1) + "\n")
    shutil.rmtree(work, ignore_errors=True)
    return found


def _dense(
    remaking: Remaking, dataset: PreparedDataset, work: Path, display: Display, *, teacher: bool
) -> tuple[Path, BaseFacts]:
    """The folder of the dense model, or of the teacher, adapted again where it was, and what was measured of it."""
    made_from, name = remaking.made_from, "teacher" if teacher else "dense model"
    spec = made_from.teacher if teacher else made_from.model
    assert spec is not None
    request = remaking.base_request(spec, dataset)
    folder = work / f"base-{request.digest()}"
    facts = run_to_end(prepare_base(folder, request, dataset), name, made_from.base.epochs, display, remaking.config.score)
    if not teacher and file_digest(folder / _WEIGHTS) != made_from.digests["dense"]:
        display.line("dense model: its weights are not those that the original was slimmed from")
    return folder, facts


def _compared(remaking: Remaking, output: Path, base: Path, dataset: PreparedDataset, *, score: float) -> Reproduced:
    original, config, made = remaking.original, remaking.config, load_config(output)
    difference, original_score = None, config.score_on("test") or 0.0
    if config.classes:
        compared = compare_folders(output, original, dataset, "test")
        difference, original_score = compared.difference, compared.second.accuracy.value
    digest, before = file_digest(output / _WEIGHTS), file_digest(original / _WEIGHTS)
    now = versions()
    return Reproduced(
        folder=str(output),
        original=str(original),
        same=digest == before,
        dense_same=file_digest(base / _WEIGHTS) == remaking.made_from.digests["dense"],
        weights_digest=digest,
        original_digest=before,
        largest_difference=_largest_difference(output / _WEIGHTS, original / _WEIGHTS),
        flops=made.flops.held,
        original_flops=config.flops.held,
        score=score,
        original_score=original_score,
        difference=difference,
        images=dataset.report.test.images,
        versions={name: f"{now.get(name)}, not {was}" for name, was in config.versions.items() if now.get(name) != was},
    )


def _largest_difference(first: Path, second: Path) -> float | None:
    one, other = safetensors.torch.load_file(first), safetensors.torch.load_file(second)
    if {name: value.shape for name, value in one.items()} != {name: value.shape for name, value in other.items()}:
        return None
    return max((float((value.double() - other[name].double()).abs().max()) for name, value in one.items()), default=0.0)
