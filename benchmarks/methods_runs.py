"""The runs of `methods_table.py`: a method or baseline at a budget with a seed, trained and evaluated in its own process."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import traceback
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import baselines
import numpy as np
import torch
from cached_teacher import SharedLogitsContext
from holdout_accuracy import holdout_hits, split_hits
from methods_rows import DESIGN, VARIANTS, chain_of_row
from torch import nn

from autoslim.core.budget import Budget
from autoslim.core.files import write_atomically
from autoslim.core.job import DatasetSpec
from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe, Step, TrainingSettings
from autoslim.core.record import Record
from autoslim.core.result import Phase
from autoslim.cost import predict
from autoslim.data import prepare_dataset
from autoslim.errors import InfeasibleError
from autoslim.export.artifact import load
from autoslim.methods import METHODS, Method, SlimmedModel, StepContext, solve
from autoslim.training import TrialContext, run_trial

TRAINING = TrainingSettings(lr=3e-4, distillation=0.9, temperature=2.0)
"""Used by every run; selected on validation images with random tokens, ViT-Slim and the dense model (docs/benchmarks/settings.md)."""

START = "vit-cifar10"
"""The dense model: a folder of the data's, or a path."""

IMAGES = "cifar10"
"""The images: a folder of the data's."""

PRUNED_HITS = "pruned.npy"

# Images a second on one core: training steps of the dense model, and its forward passes.
_TRAINED, _SEEN = 178, 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Record):
    """Settings that every run's result depends on; a folder has runs of one setting only."""

    images: int
    epochs: float
    training: TrainingSettings
    start: str = START
    source: str = IMAGES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    name: str
    budget: str
    seed: int

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.budget.rstrip('%')}-{self.seed}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts(Record):
    """The result of a run; `error` says why it failed. `infeasible`: its budget is below the row's cheapest form.

    `pruned` is the accuracy on validation images straight after pruning; runs of earlier versions have none.
    """

    name: str
    budget: str
    seed: int
    error: str = ""
    infeasible: bool = False
    share: float = 0.0
    pruned: float | None = None
    validation: float = 0.0
    test: float = 0.0
    epochs: float = 0.0
    minutes: float = 0.0
    knobs: dict[str, Any] = dataclasses.field(default_factory=dict)


def perform(run: Run, data: Path, output: Path, settings: Settings) -> None:
    """Trains the model and evaluates it as its user would load it; writes `facts.json`, `hits.npy` and `pruned.npy`."""
    torch.set_num_threads(1)
    baselines.register()
    began = time.monotonic()
    context = _open_context(data, output, settings)
    recipe = make_recipe(run, context, settings)
    folder = output / "runs" / run.folder
    reports = run_trial(recipe, context, folder)
    with keeping_pruned(METHODS[recipe.steps[-1].method]) as pruned:
        while True:
            try:
                report = next(reports)
            except StopIteration as end:
                outcome = end.value
                break
            if report.phase is Phase.PRUNE:
                save_pruned_hits(pruned[-1], context, folder)
    hits = holdout_hits(load(folder / "model").to(context.device), context)
    np.save(folder / "hits.npy", hits)
    dense = predict(context.dense.shape, Plan.dense(context.dense.shape)).total
    facts = Facts(
        name=run.name,
        budget=run.budget,
        seed=run.seed,
        share=outcome.flops / dense,
        pruned=outcome.accuracy_after_pruning,
        validation=outcome.accuracy,
        test=float(hits.mean()),
        epochs=outcome.epochs,
        minutes=(time.monotonic() - began) / 60,
        knobs={step.method: step.knobs for step in outcome.recipe.steps},
    )
    write_facts(folder, facts)


@contextlib.contextmanager
def keeping_pruned(method: Method) -> Iterator[list[nn.Module]]:
    """Inside the context, a list of the models that `method` has pruned."""
    models: list[nn.Module] = []
    prune = method.prune

    def keeping(student: nn.Module, context: StepContext) -> SlimmedModel:
        found = prune(student, context)
        models.append(found.model)
        return found

    with mock.patch.object(method, "prune", keeping):
        yield models


def save_pruned_hits(model: nn.Module, context: TrialContext, folder: Path) -> None:
    """Writes `pruned.npy`: whether each validation image is classified correctly straight after pruning.

    At the report, because a run that goes on behind it prunes nothing. What is drawn later stays as it is without this.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        np.save(folder / PRUNED_HITS, split_hits(model, context, context.splits.validation))


def _open_context(data: Path, output: Path, settings: Settings) -> TrialContext:
    # 2,000 validation images of CIFAR-10: enough to compare settings, and a small part of a run's time.
    spec = DatasetSpec(source=str(data / settings.source), validation_share=0.04, train_limit=settings.images or None)
    dataset = prepare_dataset(spec, output / "cache", seed=0)
    context = TrialContext.open(
        base=data / settings.start, dataset=dataset.path, shared_folder=output / "shared", shared_training=_training(settings)
    )
    return SharedLogitsContext.over(context, output / "teacher")


def _training(settings: Settings) -> TrainingSettings:
    return settings.training.replace(epochs=settings.epochs)


def make_recipe(run: Run, context: TrialContext, settings: Settings) -> Recipe:
    """Of `a+b` and `a+rest+b` each method reduces the FLOPs by the same factor."""
    shape, share, steps = context.dense.shape, _share(run.budget), []
    plan = Plan.dense(shape)
    dense = predict(shape, plan).total
    names, rest = chain_of_row(run.name)
    for position, row in enumerate(names, 1):
        name, own = VARIANTS.get(row, (row, {}))
        method, design = METHODS[name], DESIGN.get(row, DESIGN.get(name, {}))
        method.check(shape)
        knobs = {**design.get(run.budget, design.get("", {})), **own}
        solved = solve(method, shape, plan, knobs, int(share ** (position / len(names)) * dense))
        steps.append(Step(method=name, knobs=solved.knobs))
        plan = solved.plan
    training = _training(settings).replace(rest_share=rest)
    return Recipe(steps=tuple(steps), budget=int(share * dense), training=training, seed=run.seed)


def _share(budget: str) -> float:
    share = Budget.parse(budget).share
    assert share is not None
    return share


def write_facts(folder: Path, facts: Facts) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "facts.json", facts.to_json(indent=1))


def read(output: Path, run: Run) -> Facts | None:
    path = output / "runs" / run.folder / "facts.json"
    return Facts.from_json(path.read_text()) if path.is_file() else None


def is_done(output: Path, run: Run) -> bool:
    """Whether there is nothing to try again: it has a result, or its budget cannot be reached."""
    facts = read(output, run)
    return facts is not None and (not facts.error or facts.infeasible)


def run_in_own_process(run: Run, data: Path, output: Path, settings: Settings) -> None:
    """Records a failure where the run, or its process, ends without a result."""
    process = get_context("spawn").Process(target=_perform_or_record, args=(run, data, output, settings))
    process.start()
    process.join()
    if process.exitcode != 0 and not is_done(output, run):
        _fail(run, output, f"its process ended with {process.exitcode}")


def _perform_or_record(run: Run, data: Path, output: Path, settings: Settings) -> None:
    try:
        perform(run, data, output, settings)
    except InfeasibleError as error:
        _fail(run, output, str(error), infeasible=True)
    except Exception as error:  # noqa: BLE001 - any error is the run's own, and the table has it
        traceback.print_exc()
        _fail(run, output, f"{type(error).__name__}: {error}")


def _fail(run: Run, output: Path, reason: str, *, infeasible: bool = False) -> None:
    facts = Facts(name=run.name, budget=run.budget, seed=run.seed, error=reason, infeasible=infeasible)
    write_facts(output / "runs" / run.folder, facts)


def estimated_minutes(run: Run, settings: Settings) -> float:
    """On an idle core: training, four evaluations on 2,000 validation images, and the test images in float32 (half as fast)."""
    cost = _share(run.budget)
    passes = settings.epochs * (settings.images or 48_000)
    return cost * (passes / _TRAINED + 4 * 2_000 / _SEEN + 2 * 10_000 / _SEEN) / 60
