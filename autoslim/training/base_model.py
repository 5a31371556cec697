"""The dense model of a job: adapted to the user's data once, then every trial's start and teacher."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoslim.core.job import ModelSpec
from autoslim.core.recipe import TrainingSettings
from autoslim.core.record import OPTIONAL, Record
from autoslim.core.result import ADAPTING, BaseFacts, EpochReport, Phase, SharedCost
from autoslim.core.score import DENSE_AGREEMENT
from autoslim.cost import count_flops
from autoslim.data import Loader, PreparedDataset, Splits
from autoslim.errors import WeightsError
from autoslim.models import DenseModel, create_dense, write_folder
from autoslim.models.weights import file_digest
from autoslim.storage import is_uri, local_file
from autoslim.storage.mirror import NO_MIRROR, Mirror
from autoslim.storage.model_folder import dense_folder
from autoslim.training.best_state import COMPANION
from autoslim.training.checkpoint import delete_checkpoint, load_checkpoint, save_checkpoint
from autoslim.training.context import make_loader
from autoslim.training.device import Precision, choose_precision, pick_device
from autoslim.training.evaluate import accuracy
from autoslim.training.head_check import HeadCheck, check_head
from autoslim.training.loop import Trainer
from autoslim.training.losses import task_loss
from autoslim.training.phase_schedule import PhaseSchedule
from autoslim.training.shared_results import write_cost
from autoslim.training.single_flight import publish_shared, single_flight
from autoslim.training.token_labeling import attach_patch_head, drop_patch_head, token_labeling_loss

_FACTS = "facts.json"

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseRequest(Record):
    """Everything that decides the adapted model; its digest names the folder, so that the model is trained once."""

    model: ModelSpec
    weights_digest: str
    dataset_digest: str
    training: TrainingSettings
    seed: int
    adapt: bool | None = dataclasses.field(default=None, metadata=OPTIONAL)


def weights_digest(model: ModelSpec) -> str:
    """Digest of the weights' file, so that other weights in the same place make another model; empty for weights from timm. What is at a
    URI is fetched."""
    files = (local_file(model.weights), dense_folder(model.name) / "model.safetensors")
    return "".join(file_digest(file) for file in files if file.is_file())


def prepare_base(
    folder: Path,
    request: BaseRequest,
    dataset: PreparedDataset,
    *,
    device: torch.device | None = None,
    preempted: Callable[[], bool] = lambda: False,
    mirror: Mirror = NO_MIRROR,
) -> Generator[EpochReport, None, BaseFacts]:
    """Writes the adapted model into `folder` in timm's hub format, or reads it if it is there; yields a report after every epoch.

    A model that is trained for these classes and this image size is not trained further, and none is where the data has no labels. Where
    the training images' patches have labels, a second head is trained with them (`token_labeling`), which the model in the folder has no
    more. Of several processes that need the same folder one trains, and the others wait; with a `mirror`, on machines that share none.

    Raises:
        PreemptedError: when the process has to end, which `preempted` says after each step, with a checkpoint of that step.
    """
    work = functools.partial(_prepare, folder, request, dataset, device, preempted, mirror)
    return (yield from single_flight(folder, lambda: _read(folder), work, mirror=mirror))


def _read(folder: Path) -> BaseFacts | None:
    return BaseFacts.from_json((folder / _FACTS).read_text()) if (folder / _FACTS).is_file() else None


def _prepare(
    folder: Path,
    request: BaseRequest,
    dataset: PreparedDataset,
    device: torch.device | None,
    preempted: Callable[[], bool],
    mirror: Mirror,
) -> Generator[EpochReport]:
    began = time.monotonic()
    device = pick_device() if device is None else device
    for place in filter(is_uri, (request.model.weights, request.model.name)):
        # Another node fetches them later than the driver did.
        if weights_digest(request.model) != request.weights_digest:
            raise WeightsError(f"the weights at {place} have changed since the request was made; run the same command again")
    dense = create_dense(request.model, classes=len(dataset.classes))
    dense.module.to(device)
    splits = dataset.splits(dense.shape.image_size, dense.preprocessing.crop_pct)
    precision = choose_precision(request.training.precision, device)
    validation = make_loader(dense, splits.validation, request.training, seed=request.seed, train=False)

    module, epochs = dense.module, 0.0
    check = _head_check(dense, request, splits, validation, device=device, precision=precision)
    adapts, patches = dense.adapts_to(dataset.classes, request.adapt), splits.train.token_labels is not None
    adapts = adapts and not (check is not None and check.fits)
    if patches and not adapts:
        _log.warning("the token labels are not used: %s is taken as it is; --adapt trains it with them", request.model.name)
    if adapts:
        if patches:
            attach_patch_head(dense, seed=request.seed)
        train = make_loader(dense, splits.train, request.training, seed=request.seed, train=True, with_patches=patches)
        trainer = _trainer(dense, train, request, device=device, precision=precision, preempted=preempted)
        checkpoint = folder.with_name(folder.name + ".checkpoint")
        saved = load_checkpoint(checkpoint, mirror=mirror)
        if saved is not None:
            began -= float(saved[1]["seconds"])
        for report in _adapt(trainer, checkpoint, saved, began, mirror):
            model = module if trainer.average is None else trainer.average.module
            share = accuracy(model, validation, device=device, precision=precision)
            yield report.replace(metrics={**report.metrics, "accuracy": share})
        module, epochs = module if trainer.average is None else trainer.average.module, trainer.step / len(train)
        drop_patch_head(module)
    # Without classes the score is the agreement with this very model.
    share = accuracy(module, validation, device=device, precision=precision) if dataset.classes else DENSE_AGREEMENT
    facts = BaseFacts(
        dense_flops=count_flops(module, dense.shape.image_size),
        dense_accuracy=share,
        params=sum(p.numel() for p in module.parameters()),
        chance=_chance(splits) if dataset.classes else 0.0,
        head_check="" if check is None else str(check),
    )
    with publish_shared(folder, lambda: _read(folder)) as partial:
        write_folder(partial, module, dense.architecture, preprocessing=dense.preprocessing, classes=dataset.classes)
        (partial / _FACTS).write_text(json.dumps(facts.to_dict()))
        if epochs:
            settings = {"model": request.model.name}
            seconds = time.monotonic() - began
            write_cost(partial, SharedCost(key=folder.name, method=ADAPTING, settings=settings, epochs=epochs, seconds=seconds))
    delete_checkpoint(folder.with_name(folder.name + ".checkpoint"), mirror=mirror)


def _head_check(
    dense: DenseModel, request: BaseRequest, splits: Splits, validation: Loader, *, device: torch.device, precision: Precision
) -> HeadCheck | None:
    """The check of a classifier of unknown classes; None where it is known, or where the user has decided."""
    if not (dense.is_unproven and dense.shape.classes) or request.adapt is not None:
        return None
    plain = request.training.replace(augmentation="none", flip=False)
    train = make_loader(dense, splits.train, plain, seed=request.seed, train=True)
    return check_head(dense.module, train, validation, chance=_chance(splits), device=device, precision=precision)


def _chance(splits: Splits) -> float:
    """The accuracy of the best constant guess on the validation images."""
    return float(np.bincount(splits.validation.labels).max() / len(splits.validation))


def _trainer(
    dense: DenseModel,
    loader: Loader,
    request: BaseRequest,
    *,
    device: torch.device,
    precision: Precision,
    preempted: Callable[[], bool],
) -> Trainer:
    module, training = dense.module, request.training
    module.requires_grad_(True)
    steps = max(1, round(training.epochs * len(loader)))

    def objective(images_B3HW: Tensor, targets: Tensor) -> dict[str, Tensor]:
        if hasattr(module, COMPANION):
            return token_labeling_loss(module, images_B3HW, targets, training)
        return {"loss": task_loss(module, None, images_B3HW, targets, training)}

    return Trainer(
        module,
        objective,
        loader,
        training,
        PhaseSchedule(phase=Phase.ADAPT, seed_name="adapt", steps=steps),
        seed=request.seed,
        device=device,
        precision=precision,
        preempted=preempted,
    )


def _adapt(
    trainer: Trainer, checkpoint: Path, saved: tuple[dict[str, Tensor], dict[str, Any]] | None, began: float, mirror: Mirror
) -> Iterator[EpochReport]:
    if saved is not None:
        trainer.restore(saved[0], step=saved[1]["step"])

    def save() -> None:
        metadata = {"step": trainer.step, "seconds": time.monotonic() - began}
        save_checkpoint(checkpoint, trainer.state(), metadata, mirror=mirror)

    trainer.save = save
    for segment in trainer.segments():
        save()
        yield EpochReport(epoch=segment.steps / len(trainer.loader), phase=Phase.ADAPT, metrics=segment.metrics)
