"""Runs a `Slimming` to its end, and shows how far it is."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

import torch

from autoslim.core.budget import format_flops
from autoslim.core.duration import format_duration
from autoslim.core.figures import format_epochs
from autoslim.core.result import EpochReport
from autoslim.core.score import Score
from autoslim.progress.display import Display
from autoslim.progress.epoch_line import epoch_bar, epoch_line
from autoslim.progress.preparing import Preparing
from autoslim.progress.status import Status, working
from autoslim.report.dense_models import chance_warning
from autoslim.slimming.request import PreparedSlim, SlimJob
from autoslim.slimming.run import Slimmed, Slimming
from autoslim.training.threads import default_threads, describe_threads, torch_threads

T = TypeVar("T")


def run_slim(
    job: SlimJob, folder: Path, display: Display, *, threads: int | None = None, begin: Callable[[], None] | None = None
) -> Slimmed:
    """The model of the request in `folder`, at once where an earlier run has finished it. `begin` is called when the folder is held.

    `threads` are torch's; by default the idle CPUs, and all of them where the latency is limited, which is that of all.

    Raises:
        AutoslimError: as `Slimming`; what was finished stays in the folder, and the same call continues from it.
    """
    own = torch.get_num_threads() if job.limits.latency_ms is not None else default_threads()
    with Slimming(folder, job) as slimming, torch_threads(threads or own):
        if slimming.finished is not None:
            display.line(f"{folder} holds the model of this request already")
            return slimming.finished
        if begin is not None:
            begin()
        display.show(working("preparing"))
        prepared = slimming.prepare(tell=display.detail, watch=Preparing(display))
        _tell_request(prepared, display.line)
        if threads is None and (busy := describe_threads(own)):
            display.line(busy)
        score = job.dataset.score
        facts = run_to_end(slimming.adapt(), "dense model", job.base.epochs, display, score)
        if facts.head_check:
            display.line(f"dense model: {facts.head_check}")
        if job.dataset.labelled:
            display.line(f"dense model: accuracy {facts.dense_accuracy:.1%} on the validation images (chance {facts.chance:.1%})")
            warning = chance_warning(facts, prepared.dataset.report.validation.images, job.base)
            if warning is not None:
                display.line(f"dense model: look at this: {warning}")
        teacher = run_to_end(slimming.adapt_teacher(), "teacher", job.base.epochs, display, score)
        if teacher is not None:
            display.line(f"teacher: accuracy {teacher.dense_accuracy:.1%} on the validation images")
        outcome = run_to_end(slimming.train(), prepared.recipe.method, job.training.epochs, display, score)
        reached = f"{score.name} {score.text(outcome.accuracy or 0.0)} at {format_flops(outcome.flops or 0)}"
        display.line(f"{prepared.recipe.method} ends: {reached}")
        if outcome.kept_epoch is not None and outcome.epochs is not None and outcome.kept_epoch < outcome.epochs:
            kept = f"epoch {format_epochs(outcome.kept_epoch)} of {format_epochs(outcome.epochs)}"
            display.line(f"{prepared.recipe.method}: training after {kept} made it worse and is undone")
        display.line(f"evaluating it and the dense model on {prepared.dataset.report.test.images:,} test images")
        display.show(working("evaluating and exporting"))
        return slimming.finalize_models(facts, outcome)


def _tell_request(prepared: PreparedSlim, write: Callable[[str], None]) -> None:
    job, recipe = prepared.job, prepared.recipe
    for line in prepared.dataset.lines([(prepared.dense.shape.image_size, prepared.dense.preprocessing.crop_pct)]):
        write(f"data: {line}")
    for asked, solved in zip(job.steps, recipe.steps, strict=True):
        write(f"{solved.method}: {', '.join(f'{name} {_brief(value)}' for name, value in solved.knobs.items())}")
        for name in asked.knobs:
            if name not in solved.knobs:
                write(f"{solved.method}: {name} has no effect with these knobs and is ignored")
    budget, dense = format_flops(recipe.budget), format_flops(prepared.dense_flops)
    write(f"budget {budget}, {recipe.budget / prepared.dense_flops:.1%} of the dense model's {dense}")
    for name, usage in prepared.filled.items():
        write(f"{name}: {usage}{' (binding)' if name == prepared.binding else ''}")
    if not job.dataset.labelled:
        write(f"score: {job.dataset.score.meaning}")
    if prepared.adapts:
        write(f"dense model: {job.model.name} for {len(prepared.dataset.classes)} classes, {job.base.epochs:g} epochs")


def run_to_end(reports: Generator[EpochReport, None, T], name: str, epochs: float, display: Display, score: Score) -> T:
    """Shows each report; the result of the generator."""
    display.show(working(name))
    began, first = time.monotonic(), 0.0
    for number in itertools.count():
        try:
            report = next(reports)
        except StopIteration as end:
            result: T = end.value
            return result
        rest, ends_at = "", None
        if number == 0:
            # A resumed run starts at this epoch; the time it took before is unknown.
            began, first = time.monotonic(), report.epoch
        elif first < report.epoch < epochs:
            left = (time.monotonic() - began) / (report.epoch - first) * (epochs - report.epoch)
            rest, ends_at = f" | about {format_duration(left)} left", time.monotonic() + left
        display.detail(f"{name}: {epoch_line(report, epochs, score)}{rest}")
        display.show(Status(running=(epoch_bar(name, report, epochs, score),), ends_at=ends_at))
    raise AssertionError("the reports end by themselves")


def _brief(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
