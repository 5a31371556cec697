"""Images a second in training, and the share of it that waits for images; then of the dense model under each setting."""

from __future__ import annotations

import copy
import itertools
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.core.recipe import TrainingSettings
from autoslim.core.result import Phase
from autoslim.data import Loader
from autoslim.errors import AutoslimError, first_line
from autoslim.training import TrialContext
from autoslim.training.device import choose_precision
from autoslim.training.loop import Trainer
from autoslim.training.phase import TrainingPhase, make_trainer
from autoslim.training.phase_schedule import PhaseSchedule
from device_parts.extent import DENSE, Clock, Extent, Finding, dense_model, open_context, slimmed_models

_EPOCHS = 3
"""The first one is not counted: kernels are chosen in it, and memory is taken."""
_READY = 4
"""Batches that are on the device where nothing is loaded."""
_VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {"precision": "float32"},
    "TF32": {"precision": "tf32"},
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
    "4 parts": {"grad_accum_steps": 4},
    "checkpointed": {"grad_checkpointing": True},
    "compiled": {"compile": True},
}
_COMPILING = 60.0
"""Seconds that have to be left: the backward pass is compiled, too, beside the 15 to 30 s of the forward pass. The part's own seconds leave
no room for that; `--only training` has nearly all of the script's."""


class ReadyLoader:
    """The first batches of `loader`, which lie on the device, again and again."""

    def __init__(self, loader: Loader, device: torch.device) -> None:
        self.batch_images, self._length = loader.batch_images, len(loader)
        batches = itertools.islice(loader.epoch(0), _READY)
        self._batches = [(images_B3HW.to(device), labels_B.to(device)) for images_B3HW, labels_B in batches]

    def __len__(self) -> int:
        return self._length

    def epoch(self, epoch: int, device: torch.device | None = None, *, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The same in every epoch; called as a `Loader`'s."""
        yield from itertools.islice(itertools.cycle(self._batches), start, self._length)


def trainer_of(context: TrialContext, model: nn.Module, extent: Extent, *, epochs: int = _EPOCHS, **settings: Any) -> Trainer:
    """Fine-tunes a copy of `model`, with the dense model as its teacher."""
    training = TrainingSettings(batch_size=extent.batch, **settings)
    student = copy.deepcopy(model).to(context.device).requires_grad_(True)
    steps = epochs * max(1, len(context.splits.train) // extent.batch)
    schedule = PhaseSchedule(phase=Phase.FINETUNE, seed_name="device check", steps=steps)
    return make_trainer(context, TrainingPhase(student=student, loss=None, training=training, schedule=schedule, seed=0))


def with_ready_batches(trainer: Trainer) -> Trainer:
    trainer.loader = ReadyLoader(trainer.loader, trainer.device)
    return trainer


def speed_of(trainer: Trainer) -> tuple[float, float]:
    """Images a second, and the share of the time that waits for the loader."""
    metrics = [segment.metrics for segment in trainer.segments()][1:]
    rate, wait = (statistics.median(found[name] for found in metrics) for name in ("images_per_second", "loader_wait"))
    return rate, wait


def findings(extent: Extent, clock: Clock, scratch: Path) -> Iterator[Finding]:
    context = open_context(extent, scratch)
    precision = choose_precision("auto", context.device)
    alone = None
    for name, model, share in slimmed_models(extent, dense_model(extent)):
        if clock.left < 0:
            yield Finding(what=f"{name}, {precision}", skipped="no time is left")
            continue
        ready, _ = speed_of(with_ready_batches(trainer_of(context, model, extent)))
        loaded, wait = speed_of(trainer_of(context, model, extent))
        alone = alone or ready
        numbers = {"images/s": loaded, "waiting": wait, "images/s, batches ready": ready}
        # The teacher's pass is the same for all, so that a step saves less than the model's FLOPs.
        yield Finding(what=f"{name}, {precision}", numbers=numbers | {"times dense": ready / alone, "of the FLOPs": share})
    for name, settings in _VARIANTS.items():
        what = f"{DENSE}, {name}"
        compiles = bool(settings.get("compile"))
        if clock.left < (_COMPILING if compiles else 0):
            few = f"less than {_COMPILING:.0f} s are left; --only training leaves more"
            yield Finding(what=what, skipped=few if compiles else "no time is left")
            continue
        try:
            rate, _ = speed_of(with_ready_batches(trainer_of(context, context.student(), extent, **settings)))
        except AutoslimError as error:
            yield Finding(what=what, skipped=first_line(error))
        else:
            yield Finding(what=what, numbers={"images/s, batches ready": rate})
