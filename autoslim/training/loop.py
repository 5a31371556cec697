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
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from timm.data.mixup import mixup_target
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from autoslim.core.recipe import TrainingSettings
from autoslim.core.result import Phase
from autoslim.data import Loader
from autoslim.errors import DivergedError, InfeasibleError, PreemptedError, RequestError
from autoslim.training.acceleration import Acceleration
from autoslim.training.batch_parts import BatchPart, split_batch
from autoslim.training.checkpoint import flatten_optimizer, restore_optimizer
from autoslim.training.device import Precision, autocast, memory_format
from autoslim.training.divergence import DivergenceWatch, LateCheck
from autoslim.training.mixing import mix
from autoslim.training.rank_group import RankGroup
from autoslim.training.ranks import Segments
from autoslim.training.unfinished_segment import resume_unfinished, unfinished_part, unfinished_state
from autoslim.training.whole_batch import WholeBatch, whole_batch

Objective = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""Images (B, 3, h, w) and their labels, as of a loader or mixed, to scalars by name; `loss` is minimised, the others become curves."""

_CHECK_FINITE_EVERY = 20
"""Steps between two checks, so that a trial that has diverged ends soon."""

_CHECKPOINT_SECONDS = 600.0
"""Between two checkpoints of a longer segment: as much is lost with a node that leaves without notice. Writing one takes seconds."""

_FINAL_RATE = 0.01
"""The cosine ends at this share of the peak learning rate, so that the last steps still move the weights."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhaseSchedule:
    """One phase of training and its learning-rate schedule.

    Args:
        phase: For reports.
        seed_name: Enters every random seed: with another one, a run that resumes from a checkpoint sees other augmentations.
        steps: Optimizer steps of the phase.
        first_epoch: Number of the loader's epoch that the phase starts with, so that two phases see different augmentations.
        rate: Factor on the training's peak learning rate.
        learning_rates: Further factors of single parameters, by the suffix of their name.
        constant_rate: Whether the learning rate stays at its peak, without warm-up and decay.
        average: Whether a moving average of the weights is kept, if the training has one.
    """

    phase: Phase
    seed_name: str
    steps: int
    first_epoch: int = 0
    rate: float = 1.0
    learning_rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    constant_rate: bool = False
    average: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segment:
    """The result of one segment: the model to evaluate (the moving average if there is one), mean curves, tensors to resume from."""

    index: int
    steps: int
    model: nn.Module
    metrics: dict[str, float]
    state: Callable[[], dict[str, Tensor]]


class LoaderTimer:
    """Measures how long the training waits for its loader."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            began = time.monotonic()
            batch = next(batches, None)
            self.seconds += time.monotonic() - began
            if batch is None:
                return
            yield batch


class Trainer:
    """Trains `student` through one phase; iterate over `segments()`.

    `frozen_models` are the models that `objective` runs beside the student, such as the teacher: they compute in the same precision. While
    `objective` runs, `part` is the part of the batch that it is given.

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
        self.student, self.objective, self.loader, self.training, self.schedule = student, objective, loader, training, schedule
        self.seed, self.device, self.precision, self.frozen_models = seed, device, precision, frozen_models
        self.group = group
        # Parts that a batch is split into, with accumulated gradients; raised when the memory is too small for them.
        self.pieces = self._asked_pieces = min(training.grad_accum_steps, _smallest_share(group, loader.batch_images))
        self.part: BatchPart | None = None
        self._whole_batches = None if group is None else self._contexts(group)
        self._acceleration = Acceleration(student, frozen_models, training, device=device, precision=precision)
        self._memory_format = memory_format(student, device)
        self.segment_context: Segments = lambda index, steps: contextlib.nullcontext()
        self.preempted, self.save = preempted, no_checkpoint
        self.optimizer = make_optimizer(student, training, schedule)
        # The schedule sets the groups' rates at every step as shares of these.
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        averages = schedule.average and training.ema_decay > 0
        self.average = ModelEmaV3(student, decay=training.ema_decay, use_warmup=True) if averages else None
        self._divergence = DivergenceWatch(device)
        # Gradients of float16 would vanish: the loss is scaled up as far as none overflows.
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision is Precision.FLOAT16)
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
                curves = self._update(batch, labels)
                self.step += 1
                self._divergence.observe(curves, self.step)
                images += self._batch_images(batch)
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
            self.group.check_same(self._trained())
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
        self.save()
        self.unfinished = {}
        if self.preempted():
            raise PreemptedError(f"the trial leaves its node after {self._place}, and goes on from there")

    def _mix(self, images_B3HW: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mixup (Zhang et al., 2018) or CutMix (Yun et al., 2019) of image i with image B-1-i; labels become soft labels."""
        # A generator for each step, so that a resumed run mixes in the same share.
        draw = np.random.default_rng([self.seed, zlib.crc32(self.schedule.seed_name.encode()), self.step])
        mixed_B3HW, share = mix(images_B3HW, draw, mixup=self.training.mixup, cutmix=self.training.cutmix)
        if labels.is_floating_point():
            # Those of image and patches, which the loss smooths. Only the dense model's training has them, and it has no CutMix, whose box
            # patches would have to follow.
            assert self.training.cutmix == 0, "labels of patches with CutMix"
            return mixed_B3HW, torch.lerp(labels, labels.flip(0), 1 - share)
        classes = int(self.student.num_classes)  # type: ignore[arg-type]
        # Without classes the teacher sees the mixed image, and labels are not read.
        targets = mixup_target(labels, classes, share, self.training.label_smoothing) if classes else labels
        return mixed_B3HW, targets

    def _update(self, images_B3HW: Tensor, labels: Tensor) -> dict[str, Tensor]:
        try:
            return self._accumulate(images_B3HW, labels)
        except torch.OutOfMemoryError as error:
            # In the middle of a step the other ranks could not go back and halve theirs.
            if self.pieces > self._asked_pieces or len(images_B3HW) < 2 * self.pieces or self.group is not None:
                size = math.ceil(len(images_B3HW) / self.pieces)
                raise InfeasibleError(
                    f"{size} images at once do not fit into the memory of {self.device}: {error}; --grad-accum-steps "
                    f"{2 * self.pieces} and --grad-checkpointing need less"
                ) from error
        # In halves, and no further: then the recipe counts as infeasible. Kept for the rest of the phase: the next batch is as large.
        # Outside the handler, whose traceback keeps the failed step's tensors alive.
        self.pieces *= 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return self._update(images_B3HW, labels)

    def _accumulate(self, images_B3HW: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        curves: dict[str, Tensor] = {}
        for number, part in enumerate(split_batch(images_B3HW, self.pieces)):
            self.part, images = part, part.images_b3HW
            # The sum of the parts' gradients, and of the ranks', is then that of the whole batch's mean loss.
            share = len(images) / self._batch_images(images_B3HW)
            with contextlib.nullcontext() if self._whole_batches is None else self._whole_batches[number]:
                with autocast(self.student, *self.frozen_models, device=self.device, precision=self.precision):
                    losses = self.objective(images, labels[part.rows])
                self.scaler.scale(losses["loss"] * share).backward()  # type: ignore[no-untyped-call]
            for name, value in losses.items():
                curves[name] = curves.get(name, torch.zeros((), device=self.device)) + value.detach() * share
        if self.group is not None:
            # Once a step, whatever its parts.
            curves = self.group.sum_gradients(self._trained(), curves)
        if self.training.clip_norm > 0:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self._trained(), self.training.clip_norm)
        # Both are the optimizer's own step where no loss is scaled. Where a gradient has overflowed on any rank, it has on all of them:
        # all leave the step out and halve the scale.
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return curves

    def _contexts(self, group: RankGroup) -> list[contextlib.AbstractContextManager[Any]]:
        """Of a rank's passes, by the part of the batch."""
        images = self.loader.batch_images
        contexts = [whole_batch(self.student, group, images, part=part, parts=self.pieces) for part in range(self.pieces)]
        if self.training.compile and any(isinstance(context, WholeBatch) for context in contexts):
            raise RequestError(
                "--compile cannot be used where several GPUs train a model with dropout, stochastic depth or batch norms: what they draw "
                "for the whole batch is not in a compiled graph; leave it out, or give a trial one GPU (--resources gpu=1)"
            )
        return contexts

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.student.parameters() if parameter.requires_grad]

    def _batch_images(self, own_B3HW: Tensor) -> int:
        """Images of the batch, of which this rank has `own_B3HW`."""
        return len(own_B3HW) if self.group is None else self.loader.batch_images

    def _set_learning_rate(self) -> None:
        schedule = self.schedule
        factor = 1.0 if schedule.constant_rate else learning_rate_factor(self.step, schedule.steps, self.training.warmup)
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


def _smallest_share(group: RankGroup | None, images: int) -> int:
    """Images that every rank has of a batch of `images`."""
    return images if group is None else min(map(len, group.share.rows_by_rank(images)))


def no_checkpoint() -> None:
    """The `save` of a trainer whose owner keeps no checkpoint in the middle of a segment."""


def load_named(module: nn.Module, tensors: dict[str, Tensor], prefix: str) -> None:
    module.load_state_dict(
        {n.removeprefix(f"{prefix}."): v for n, v in tensors.items() if n.startswith(f"{prefix}.")}, strict=True
    )


def segment_seed(seed: int, name: str, index: int) -> int:
    # Not `hash`, which gives text another number in every process.
    return zlib.crc32(f"{seed}/{name}/{index}".encode())


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up over the share `warmup` of the steps, then half a cosine down to 1 % (SGDR without restarts; Loshchilov, 2017)."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    return _FINAL_RATE + (1 - _FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * done))


def make_optimizer(student: nn.Module, training: TrainingSettings, schedule: PhaseSchedule) -> torch.optim.AdamW:
    """AdamW over the parameters that require a gradient.

    As in timm, biases, norms, position embeddings, positions of attention and tokens have no weight decay. Nor have ViT-Slim's masks,
    which decay would pull to zero.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            factor = next((rate for suffix, rate in schedule.learning_rates.items() if name.endswith(suffix)), None)
            plain = parameter.ndim < 2 or name.endswith(("pos_embed", "_token", "zeta")) or ".positions." in name
            groups.setdefault((1.0 if factor is None else factor, 0.0 if plain else training.weight_decay), []).append(parameter)
    peak = training.lr * schedule.rate
    return torch.optim.AdamW(
        [{"params": parameters, "lr": peak * rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()],
        fused=True,
    )
