"""`Throughput`: how fast this machine trains a job's models, from some steps of the real training loop on random images."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from autoslim.core.job import SearchJob
from autoslim.core.record import Record
from autoslim.core.result import Phase
from autoslim.models import DenseModel
from autoslim.training.device import autocast, choose_precision, pick_device
from autoslim.training.losses import task_loss
from autoslim.training.optimizer import make_optimizer
from autoslim.training.phase_schedule import PhaseSchedule

_MIN_SECONDS = 0.5
"""An action is repeated for so long, so that a short one is not measured by the clock's noise."""
_MIN_STEPS, _MAX_STEPS = 3, 50
_MAX_STEP_SECONDS = 1.5
"""A batch whose step would take longer is timed with fewer images: the whole measurement should take seconds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Throughput(Record):
    """Seconds an image.

    base: a training step of the dense model alone
    train: a training step of the dense model, with its teacher
    finetune: a training step of a model with the mean share of tokens that the budgets leave, with its teacher
    evaluate: a forward pass of that model
    """

    base: float
    train: float
    finetune: float
    evaluate: float


def mean_throughput(measured: Sequence[Throughput]) -> Throughput:
    """Over the starts of a search, each of which has as many trials as the others."""
    names = [field.name for field in dataclasses.fields(Throughput)]
    return Throughput(**{name: statistics.fmean(getattr(one, name) for one in measured) for name in names})


def measure_throughput(job: SearchJob, dense: DenseModel, *, kept: float, threads: int) -> Throughput:
    """With a trial's `threads`; `kept` is the mean share of the dense model's FLOPs that the budgets leave. `dense` is not changed."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _measure(job, dense, kept)
    finally:
        torch.set_num_threads(before)


def _measure(job: SearchJob, dense: DenseModel, kept: float) -> Throughput:
    device = pick_device()
    teacher = dense.module.to(device).eval().requires_grad_(False)
    student = copy.deepcopy(teacher).requires_grad_(True)
    tokens = dense.shape.prefix_tokens + max(1, round(kept * dense.shape.patches))
    precision = choose_precision(job.training.precision, device)
    step = _stepper(job, student, dense, device)

    def forward(images_B3HW: Tensor) -> None:
        with torch.no_grad(), autocast(student, device=device, precision=precision):
            student(images_B3HW)

    size = _batch_size(job.training.batch_size, lambda count: _time(lambda: step(_images(dense, count, device), teacher), device))
    images = _images(dense, size, device)
    base = _time(lambda: step(images, None), device) / size
    train = _time(lambda: step(images, teacher), device) / size
    # Every method saves about as much time as dropping tokens to the same FLOPs, which needs no method.
    with _first_tokens(student, tokens):
        finetune = _time(lambda: step(images, teacher), device) / size
        evaluate = _time(lambda: forward(images), device) / size
    return Throughput(base=base, train=train, finetune=finetune, evaluate=evaluate)


def _stepper(
    job: SearchJob, student: nn.Module, dense: DenseModel, device: torch.device
) -> Callable[[Tensor, nn.Module | None], None]:
    """A trial's training step: loss, backward pass, clipping, the optimizer's step, the moving average."""
    training = job.training
    optimizer = make_optimizer(student, training, PhaseSchedule(phase=Phase.FINETUNE, seed_name="pace", steps=1))
    average = ModelEmaV3(student, decay=training.ema_decay, use_warmup=True) if training.ema_decay > 0 else None
    precision = choose_precision(training.precision, device)
    if training.grad_checkpointing:
        student.set_grad_checkpointing()  # type: ignore[operator]

    def step(images_B3HW: Tensor, teacher: nn.Module | None) -> None:
        student.train()
        labels_B = torch.zeros(len(images_B3HW), dtype=torch.long, device=device)
        optimizer.zero_grad(set_to_none=True)
        with autocast(student, *(() if teacher is None else (teacher,)), device=device, precision=precision):
            loss = (
                task_loss(student, teacher, images_B3HW, labels_B, training)
                if dense.shape.classes
                else _feature_error(student, teacher, images_B3HW)
            )
        loss.backward()  # type: ignore[no-untyped-call]
        if training.clip_norm > 0:
            nn.utils.clip_grad_norm_(student.parameters(), training.clip_norm)
        optimizer.step()
        if average is not None:
            average.update(student, 1)

    return step


def _feature_error(student: Any, teacher: Any, images_B3HW: Tensor) -> Tensor:
    """In the place of the loss of features: the same passes, and the tokens that the student is left with."""
    own_BKD = student.forward_features(images_B3HW)
    if teacher is None:
        return nn.functional.mse_loss(own_BKD, torch.zeros_like(own_BKD))
    with torch.no_grad():
        target_BTD = teacher.forward_features(images_B3HW)
    return nn.functional.mse_loss(own_BKD, target_BTD[:, : own_BKD.shape[1]])


def _batch_size(wanted: int, seconds: Callable[[int], float]) -> int:
    """The job's own, or the largest whose step stays short; `seconds` times a step of so many images."""
    small = min(wanted, 4)
    return max(small, min(wanted, int(_MAX_STEP_SECONDS / seconds(small) * small)))


@contextlib.contextmanager
def _first_tokens(student: nn.Module, tokens: int) -> Iterator[None]:
    """Within it the blocks see only the first `tokens` tokens."""
    first = next(iter(student.blocks))  # type: ignore[arg-type]
    hook = first.register_forward_pre_hook(lambda _, inputs: (inputs[0][:, :tokens], *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()


def _images(dense: DenseModel, count: int, device: torch.device) -> Tensor:
    return torch.randn(count, 3, *dense.shape.image_size, device=device)


def _time(action: Callable[[], None], device: torch.device) -> float:
    """Median seconds of one `action`."""
    # The first run allocates memory, and on a GPU compiles or selects kernels.
    action()
    times: list[float] = []
    while len(times) < _MIN_STEPS or (sum(times) < _MIN_SECONDS and len(times) < _MAX_STEPS):
        began = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2]
