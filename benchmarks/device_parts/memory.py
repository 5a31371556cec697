"""A trial whose batch does not fit into the memory, which is made small for it: the batch is halved once, and then it is infeasible."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe, Step, TrainingSettings
from autoslim.core.result import Outcome
from autoslim.cost import predict
from autoslim.errors import InfeasibleError
from autoslim.methods import METHODS, solve
from autoslim.training import TrialContext, run_trial
from device_parts.extent import SHARE, Clock, Extent, Finding, open_context
from device_parts.training import trainer_of, with_ready_batches

_HALF_FITS, _NOT_EVEN_HALF = 0.8, 0.25
"""Shares of the memory that a step of the whole batch takes beside what is there before it."""
_METHOD = "merge"


def findings(extent: Extent, clock: Clock, scratch: Path) -> Iterator[Finding]:
    if not torch.cuda.is_available():
        yield Finding(
            what="a trial out of memory",
            skipped="no GPU; of a CPU's memory PyTorch raises no error that a trial could go on after",
        )
        return
    context = open_context(dataclasses.replace(extent, images=2 * extent.batch), scratch)
    recipe, model = _recipe(context, extent)
    before, step = _memory_of_a_step(context, model, extent)
    yield Finding(what="a training step", numbers={"GB": (before + step) / 1e9, "GB before it": before / 1e9})
    with limited_memory(before + _HALF_FITS * step):
        outcome = _run(recipe, context, scratch / "halved")
        yield Finding(what="half a batch fits", numbers={"parts": outcome.grad_accum_steps or 0})
    with limited_memory(before + _NOT_EVEN_HALF * step):
        try:
            _run(recipe, context, scratch / "infeasible")
        except InfeasibleError:
            yield Finding(what="half a batch does not fit", numbers={"infeasible": 1})
        else:
            yield Finding(what="half a batch does not fit", numbers={"infeasible": 0})


def _recipe(context: TrialContext, extent: Extent) -> tuple[Recipe, nn.Module]:
    """Of a method that measures nothing first, and what it leaves of the model."""
    shape, start = context.dense.shape, Plan.dense(context.dense.shape)
    solved = solve(METHODS[_METHOD], shape, start, {}, int(SHARE * predict(shape, start).total))
    steps = (Step(method=_METHOD, knobs=solved.knobs),)
    training = TrainingSettings(batch_size=extent.batch, epochs=1.0)
    recipe = Recipe(steps=steps, budget=int(SHARE * predict(shape, start).total), training=training, seed=0)
    return recipe, METHODS[_METHOD].build(context.student(), shape, solved.plan, solved.knobs)


def _memory_of_a_step(context: TrialContext, model: nn.Module, extent: Extent) -> tuple[int, int]:
    """Bytes before a training step, and what the step takes at most."""
    trainer = with_ready_batches(trainer_of(context, model, extent, epochs=1))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    trainer.train_segment(0, 2)
    return before, torch.cuda.max_memory_allocated() - before


@contextlib.contextmanager
def limited_memory(size: float) -> Iterator[None]:
    """Within it PyTorch has so many bytes of the GPU."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(size / torch.cuda.get_device_properties(0).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def _run(recipe: Recipe, context: TrialContext, folder: Path) -> Outcome:
    trial = run_trial(recipe, context, folder)
    while True:
        try:
            next(trial)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
