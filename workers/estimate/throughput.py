"""How fast this machine trains a job's models: some steps of the real loop on random images, before anything is prepared."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import time
from collections.abc import Callable, Iterator

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from autoslim.core.job import SearchJob
from autoslim.core.record import Record
from autoslim.models import DenseModel
from autoslim.training.device import computing, pick_device, uses_bfloat16
from autoslim.training.loop import Beat, make_optimizer
from autoslim.training.losses import task_loss

_LEAST_SECONDS = 0.5
_STEPS = 3
_LONGEST_STEP = 1.5
"""Seconds of a step; where a batch would take longer, it is timed with fewer images."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Throughput(Record):
    """Seconds an image: a training step of the dense model alone (`base`) and beside its teacher (`train`), of a model with that share of
    the tokens that the budgets leave on average, beside the teacher (`tune`), and that model's forward pass (`judge`).
    """

    base: float
    train: float
    tune: float
    judge: float


def measure_throughput(job: SearchJob, dense: DenseModel, *, kept: float, threads: int) -> Throughput:
    """With as many threads as a trial has; `kept` is the share of the dense model's FLOPs. The gradients are thrown away."""
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
    step = _stepper(job, student, dense, device)

    def forward(images_B3HW: Tensor) -> None:
        bfloat16 = uses_bfloat16(job.training.precision, device)
        with torch.no_grad(), computing(student, device=device, bfloat16=bfloat16):
            student(images_B3HW)

    size = _batch(job.training.batch_size, lambda count: _time(lambda: step(_images(dense, count, device), teacher), device))
    images = _images(dense, size, device)
    base = _time(lambda: step(images, None), device) / size
    train = _time(lambda: step(images, teacher), device) / size
    with _only(student, tokens):
        tune = _time(lambda: step(images, teacher), device) / size
        judge = _time(lambda: forward(images), device) / size
    return Throughput(base=base, train=train, tune=tune, judge=judge)


def _stepper(
    job: SearchJob, student: nn.Module, dense: DenseModel, device: torch.device
) -> Callable[[Tensor, nn.Module | None], None]:
    """What a trial does with a batch: loss, backward pass, clipping, the optimizer's step, the moving average."""
    training = job.training
    optimizer = make_optimizer(student, training, Beat(name="pace", steps=1))
    average = ModelEmaV3(student, decay=training.ema_decay, use_warmup=True) if training.ema_decay > 0 else None
    bfloat16 = uses_bfloat16(training.precision, device)

    def step(images_B3HW: Tensor, teacher: nn.Module | None) -> None:
        student.train()
        targets_B = torch.zeros(len(images_B3HW), dtype=torch.long, device=device)
        optimizer.zero_grad(set_to_none=True)
        with computing(student, *(() if teacher is None else (teacher,)), device=device, bfloat16=bfloat16):
            loss = task_loss(student, teacher, images_B3HW, targets_B, training)
        loss.backward()  # type: ignore[no-untyped-call]
        if training.clip_norm > 0:
            nn.utils.clip_grad_norm_(student.parameters(), training.clip_norm)
        optimizer.step()
        if average is not None:
            average.update(student, 1)

    return step


def _batch(wanted: int, seconds: Callable[[int], float]) -> int:
    """The batch to time with: the job's own, or as large as a step stays short."""
    small = min(wanted, 4)
    return max(small, min(wanted, int(_LONGEST_STEP / seconds(small) * small)))


@contextlib.contextmanager
def _only(student: nn.Module, tokens: int) -> Iterator[None]:
    """The blocks see the first tokens only."""
    first = next(iter(student.blocks))  # type: ignore[arg-type]
    hook = first.register_forward_pre_hook(lambda _, inputs: (inputs[0][:, :tokens], *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()


def _images(dense: DenseModel, count: int, device: torch.device) -> Tensor:
    return torch.randn(count, 3, *dense.shape.image_size, device=device)


def _time(action: Callable[[], None], device: torch.device) -> float:
    """Seconds of one `action`, the median of some; the first warms up."""
    action()
    times: list[float] = []
    while len(times) < _STEPS or (sum(times) < _LEAST_SECONDS and len(times) < 50):
        began = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2]
