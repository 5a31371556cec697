"""The training loop: one, for the dense model, for a method's own parts and for fine-tuning a pruned model.

It trains the parameters that require a gradient, in segments of at most one epoch, and yields after each, so that the caller can
evaluate, report, checkpoint, or stop. All randomness derives from (seed, phase, segment): a run that resumes from a checkpoint repeats
the uninterrupted run to the bit, also from one in the middle of a segment, which has the generators' states.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import time
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from autoslim.core.recipe import TrainingSettings
from autoslim.data import Loader
from autoslim.errors import DivergedError, PreemptedError
from autoslim.training.acceleration import Acceleration
from autoslim.training.batch_update import BatchUpdate, Objective
from autoslim.training.checkpoint import flatten_optimizer, restore_optimizer
from autoslim.training.device import Precision, memory_format
from autoslim.training.divergence import DivergenceWatch, LateCheck
from autoslim.training.loader_timer import LoaderTimer
from autoslim.training.mixing import mix_batch
from autoslim.training.optimizer import make_optimizer
from autoslim.training.phase_schedule import PhaseSchedule, learning_rate_factor
from autoslim.training.rank_group import RankGroup
from autoslim.training.ranks import Segments
from autoslim.training.unfinished_segment import resume_unfinished, unfinished_part, unfinished_state

_CHECK_FINITE_EVERY = 20
"""Steps between two checks, so that a trial that has diverged ends soon."""

_CHECKPOINT_SECONDS = 600.0
"""Between two checkpoints of a longer segment: as much is lost with a node that leaves without notice. Writing one takes seconds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segment:
    """The result of one segment: the model to evaluate (the moving average if there is one), mean curves, tensors to resume from."""

    index: int
    steps: int
    model: nn.Module
    metrics: dict[str, float]
    state: Callable[[], dict[str, Tensor]]


class Trainer:
    """Trains `student` through one phase; iterate over `segments()`.

    `frozen_models` are the models that `objective` runs beside the student, such as the teacher: they compute in the same precision.
    `update` is what happens with each batch.

    `preempted` says, after each step, whether this process has to end soon. Then, and every ten minutes, it calls its `save`, where its
    owner has set one: it writes a checkpoint of `state()` in the middle of a segment.

    With a `group` this is one of the ranks that train the same student together: `loader` gives this rank's share of each batch, and
    `segment_context` lets the others train each segment along. Losses and weights are those of one process with the whole batches.
    """

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        loader: Loader,
        training: TrainingSettings,
        schedule: PhaseSchedule,
        *,
        seed: int,
        device: torch.device,
        precision: Precision,
        frozen_models: tuple[nn.Module, ...] = (),
        group: RankGroup | None = None,
        preempted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.student, self.loader, self.training, self.schedule = student, loader, training, schedule
        self.seed, self.device, self.precision, self.group = seed, device, precision, group
        self.optimizer = make_optimizer(student, training, schedule)
        # The schedule sets the groups' rates at every step as shares of these.
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.update = BatchUpdate(
            student,
            objective,
            training,
            self.optimizer,
            device=device,
            precision=precision,
            batch_images=loader.batch_images,
            frozen_models=frozen_models,
            group=group,
        )
        self.scaler = self.update.scaler
        self._acceleration = Acceleration(student, frozen_models, training, device=device, precision=precision)
        self._memory_format = memory_format(student, device)
        self.segment_context: Segments = lambda index, steps: contextlib.nullcontext()
        self.preempted, self.save = preempted, no_checkpoint
        averages = schedule.average and training.ema_decay > 0
        self.average = ModelEmaV3(student, decay=training.ema_decay, use_warmup=True) if averages else None
        self._divergence = DivergenceWatch(device)
        self.step = 0
        # Of a segment that is not finished: what its checkpoint has beside weights and optimizer.
        self.unfinished: dict[str, Tensor] = {}

    def restore(self, tensors: dict[str, Tensor], *, step: int) -> None:
        """Resumes after `step` steps from the tensors of a `Segment`, or from `state()` in the middle of one."""
        load_named(self.student, tensors, "student")
        if self.average is not None:
            load_named(self.average.module, tensors, "average")
        restore_optimizer(self.optimizer, self.scaler, tensors)
        self.step, self.unfinished = step, unfinished_part(tensors)

    def segments(self) -> Iterator[Segment]:
        """The segments that are left.

        Raises:
            DivergedError: when the loss or a weight is not finite.
            InfeasibleError: when not even half a part of a batch fits into the memory, or, on several ranks, not a rank's part.
            RankLostError: when another rank is lost.
            PreemptedError: when the process has to end; `save` has been called.
        """
        length = len(self.loader)
        while self.step < self.schedule.steps:
            index = self.step // length
            steps = min(length, self.schedule.steps - index * length)
            with self.segment_context(index, steps):
                metrics = self.train_segment(index, steps)
            yield Segment(
                index=index,
                steps=self.step,
                model=self.student if self.average is None else self.average.module,
                metrics=metrics,
                state=self.state,
            )

    def train_segment(self, index: int, steps: int) -> dict[str, float]:
        """Trains one segment of `steps` steps, or what is left of it, and returns its mean curves.

        `segments` does so for all; on several ranks each of them does, for each."""
        done = self.step - index * len(self.loader)
        # What the model draws (dropout) depends on the segment alone: a resumed run draws the same.
        torch.manual_seed(segment_seed(self.seed, self.schedule.seed_name, index))
        totals = resume_unfinished(self.unfinished, self.device) if done else {}
        self.unfinished = {}
        self.student.train()
        loss_check = LateCheck()
        began, images, timer = time.monotonic(), 0, LoaderTimer()
        saved = began
        batches = self.loader.epoch(self.schedule.first_epoch + index, self.device, start=done)
        # The last segment may end within an epoch; its loader then stops preparing batches at once.
        with contextlib.closing(batches), self._acceleration.segment():  # type: ignore[type-var]
            # Nothing in a step waits for a GPU, which is always given the next step before it has done this one.
            for taken, (images_B3HW, labels) in enumerate(timer.timed(itertools.islice(batches, steps - done)), done + 1):
                batch = images_B3HW.to(memory_format=self._memory_format)
                if self.training.mixup > 0 or self.training.cutmix > 0:
                    batch, labels = self._mix(batch, labels)
                self._set_learning_rate()
                curves = self.update(batch, labels)
                self.step += 1
                self._divergence.observe(curves, self.step)
                images += self.update.images_of(batch)
                if self.average is not None:
                    self.average.update(self.student, self.step)
                for name, value in curves.items():
                    # Summed on the device: reading a value would wait for it.
                    totals[name] = totals.get(name, torch.zeros((), device=self.device)) + value
                if self.step % _CHECK_FINITE_EVERY == 0 and not loss_check.is_finite(totals["loss"]):
                    self._check_finite(totals)
                # At its end a segment is saved by who iterates over them.
                if taken < steps and (self.preempted() or time.monotonic() - saved > _CHECKPOINT_SECONDS):
                    self._save_unfinished(totals)
                    saved = time.monotonic()
        self._check_finite(totals)
        self._check_weights()
        if self.group is not None:
            self.group.check_same(self.update.trained())
        seconds = time.monotonic() - began
        speed = {"images_per_second": images / seconds, "loader_wait": timer.seconds / seconds}
        return {name: float(total) / steps for name, total in totals.items()} | speed

    def _save_unfinished(self, totals: dict[str, Tensor]) -> None:
        if self.save is no_checkpoint:
            return
        # A state that nothing can be trained from is not saved.
        self._check_finite(totals)
        self._check_weights()
        self.unfinished = unfinished_state(totals, self.device)
        with contextlib.nullcontext() if self.group is None else self.group.alone():
            self.save()
        self.unfinished = {}
        if self.preempted():
            raise PreemptedError(f"the trial leaves its node after {self._place}, and goes on from there")

    def _mix(self, images_B3HW: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        # A generator for each step, so that a resumed run mixes in the same share.
        draw = np.random.default_rng([self.seed, zlib.crc32(self.schedule.seed_name.encode()), self.step])
        classes = int(self.student.num_classes)  # type: ignore[arg-type]
        return mix_batch(images_B3HW, labels, draw, self.training, classes=classes)

    def _set_learning_rate(self) -> None:
        schedule = self.schedule
        falling = learning_rate_factor(
            self.step,
            schedule.steps,
            self.training.warmup,
            schedule.lr_decay,
            final_rate=self.training.final_rate,
            cooldown=self.training.cooldown,
        )
        factor = 1.0 if schedule.constant_rate else falling
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor

    def _check_finite(self, totals: dict[str, Tensor]) -> None:
        if torch.isfinite(totals["loss"]):
            return
        hint = "; float16 ends at 65504: --precision bf16 or fp32 may help" if self.precision is Precision.FLOAT16 else ""
        raise DivergedError(f"the loss is {float(totals['loss'])} at {self._place}; {self._divergence.describe()}{hint}")

    def _check_weights(self) -> None:
        """Checks what the check of the loss cannot see: no loss has been computed from the last step's weights yet."""
        for name, parameter in self.student.named_parameters():
            if parameter.requires_grad and not torch.isfinite(parameter).all():
                raise DivergedError(f"the parameter {name} is not finite after {self._place}")

    @property
    def _place(self) -> str:
        """The last step, for an error."""
        epoch, rate = math.ceil(self.step / len(self.loader)), max(group["lr"] for group in self.optimizer.param_groups)
        return f"step {self.step} of the {self.schedule.phase} phase (epoch {epoch}, learning rate {rate:.3g})"

    def state(self) -> dict[str, Tensor]:
        """The tensors to resume from, in the middle of a segment as well as at its end."""
        tensors = {f"student.{name}": value for name, value in self.student.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{name}": value for name, value in self.average.module.state_dict().items()}
        return tensors | flatten_optimizer(self.optimizer, self.scaler) | self.unfinished


def no_checkpoint() -> None:
    """The `save` of a trainer whose owner keeps no checkpoint in the middle of a segment."""


def load_named(module: nn.Module, tensors: dict[str, Tensor], prefix: str) -> None:
    module.load_state_dict(
        {n.removeprefix(f"{prefix}."): v for n, v in tensors.items() if n.startswith(f"{prefix}.")}, strict=True
    )


def segment_seed(seed: int, name: str, index: int) -> int:
    # Not `hash`, which gives text another number in every process.
    return zlib.crc32(f"{seed}/{name}/{index}".encode())
