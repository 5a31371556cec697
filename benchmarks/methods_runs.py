"""The runs of `methods_table.py`: a method or baseline at a budget with a seed, trained and evaluated in its own process."""

from __future__ import annotations

import dataclasses
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import baselines
import numpy as np
import torch
from baselines.tome import CONSTANT, DECREASING
from cached_teacher import SharedLogitsContext
from holdout_accuracy import holdout_hits

from autoslim.core.budget import Budget
from autoslim.core.files import write_atomically
from autoslim.core.job import DatasetSpec
from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs, Recipe, Step, TrainingSettings
from autoslim.core.record import Record
from autoslim.cost import predict
from autoslim.data import prepare_dataset
from autoslim.export.artifact import load
from autoslim.methods import METHODS, solve
from autoslim.training import TrialContext, run_trial

TRAINING = TrainingSettings(lr=3e-4, distillation=0.9, temperature=2.0)
"""Used by every run; selected on validation images with random tokens, ViT-Slim and the dense model (docs/benchmarks/settings.md)."""

OURS = ("patch_slimming", "dps", "life_regression", "sit", "merge", "vit_slim", "width")
VARIANTS: dict[str, tuple[str, Knobs]] = {
    **{f"{name}_merging": (name, {"dead": "merge"}) for name in ("patch_slimming", "dps", "life_regression")},
    "vit_slim_refit": (
        "vit_slim",
        {"l1": "even", "search_share": 0.1, "mask_lr": 100.0, "start": "dense", "rule": "fall", "refit": True},
    ),
    "life_regression_ours": (
        "life_regression",
        {"start": "impact", "last_reading": True, "dead": "merge", "loss": "recipe", "tune": "all", "train_share": 0.2},
    ),
    "dps_task": ("dps", {"learn_from": "task"}),
    "sit_image": ("sit", {"slots": "image"}),
    "sit_image_once": ("sit", {"slots": "image", "stages": 1}),
    "sit_sizes": ("sit", {"sizes": "patches"}),
    "sit_image_sizes": ("sit", {"slots": "image", "sizes": "patches"}),
    "sit_one_stage": ("sit", {"stages": 1, "token_error": "plain", "token_weight": 0.1, "recalibrate": "first"}),
    "tome_constant": ("tome", {"slope": CONSTANT}),
    "tome_decreasing": ("tome", {"slope": DECREASING}),
}
"""Further rows, on request: a method or a baseline with knobs other than its defaults."""

BASELINES = (*baselines.BASELINES, *(row for row, (name, _) in VARIANTS.items() if name in baselines.BASELINES))
"""The baselines, and further rows of them, on request."""
ROWS = (
    *OURS,
    *("patch_slimming_merging", "life_regression_merging", "life_regression_ours", "sit_image_once"),
    "width+merge",
    *baselines.BASELINES,
)
"""The rows of the table: every method with its defaults, what is ours in those of papers, a chain, and the baselines."""
BUDGETS = ("70%", "50%", "35%", "25%", "15%")
START = "vit-cifar10"
"""The dense model: a folder of the data's, or a path."""
DENSE, RANDOM = "dense", "random_tokens"


def _layers(knob: str, *layers: int) -> Knobs:
    return {f"{knob}_{k}": layer for k, layer in enumerate(layers, 1)}


ONE_STAGE = ("sit_one_stage", "sit_image_once")

DESIGN: dict[str, dict[str, Knobs]] = {
    "random_tokens": {"": _layers("drop_layer", 1, 2, 3)},
    "evit": {"": _layers("layer", 1, 3, 5)},
    "life_regression": {"35%": _layers("drop_layer", 1, 2, 3)},
    "vit_slim_refit": {"35%": {"patches": "up", "patch_share": 0.2}},
    **{row: {"70%": {"stage_layer_1": 3}, "50%": {"stage_layer_1": 2}, "35%": {"stage_layer_1": 1}} for row in ONE_STAGE},
}
"""Knobs other than the defaults, by row and budget (`""`: every other budget), selected on validation images."""

# Images a second on one core: training steps of the dense model, and its forward passes.
_TRAINED, _SEEN = 178, 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Record):
    """Settings that every run's result depends on; a folder has runs of one setting only."""

    images: int
    epochs: float
    training: TrainingSettings
    start: str = START


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
    """The result of a run; `error` says why it failed."""

    name: str
    budget: str
    seed: int
    error: str = ""
    share: float = 0.0
    validation: float = 0.0
    test: float = 0.0
    epochs: float = 0.0
    minutes: float = 0.0
    knobs: dict[str, Any] = dataclasses.field(default_factory=dict)


def perform(run: Run, data: Path, output: Path, settings: Settings) -> None:
    """Trains the model and evaluates it as its user would load it; writes `facts.json` and `hits.npy`."""
    torch.set_num_threads(1)
    baselines.register()
    began = time.monotonic()
    context = _open_context(data, output, settings)
    recipe = make_recipe(run, context, settings)
    folder = output / "runs" / run.folder
    reports = run_trial(recipe, context, folder)
    while True:
        try:
            next(reports)
        except StopIteration as end:
            outcome = end.value
            break
    hits = holdout_hits(load(folder / "model").to(context.device), context)
    np.save(folder / "hits.npy", hits)
    dense = predict(context.dense.shape, Plan.dense(context.dense.shape)).total
    facts = Facts(
        name=run.name,
        budget=run.budget,
        seed=run.seed,
        share=outcome.flops / dense,
        validation=outcome.accuracy,
        test=float(hits.mean()),
        epochs=outcome.epochs,
        minutes=(time.monotonic() - began) / 60,
        knobs={step.method: step.knobs for step in outcome.recipe.steps},
    )
    _write(folder, facts)


def _open_context(data: Path, output: Path, settings: Settings) -> TrialContext:
    # 2,000 validation images: enough to compare settings, and a small part of a run's time.
    spec = DatasetSpec(source=str(data / "cifar10"), validation_share=0.04, train_limit=settings.images or None)
    dataset = prepare_dataset(spec, output / "cache", seed=0)
    context = TrialContext.open(
        base=data / settings.start, dataset=dataset.path, shared_folder=output / "shared", shared_training=_training(settings)
    )
    return SharedLogitsContext.over(context, output / "teacher")


def _training(settings: Settings) -> TrainingSettings:
    return settings.training.replace(epochs=settings.epochs)


def make_recipe(run: Run, context: TrialContext, settings: Settings) -> Recipe:
    """Of `a+b` each method reduces the FLOPs by the same factor."""
    shape, share, steps = context.dense.shape, _share(run.budget), []
    plan = Plan.dense(shape)
    dense, names = predict(shape, plan).total, run.name.split("+")
    for position, row in enumerate(names, 1):
        name, own = VARIANTS.get(row, (row, {}))
        method, design = METHODS[name], DESIGN.get(row, DESIGN.get(name, {}))
        method.check(shape)
        knobs = {**design.get(run.budget, design.get("", {})), **own}
        solved = solve(method, shape, plan, knobs, int(share ** (position / len(names)) * dense))
        steps.append(Step(method=name, knobs=solved.knobs))
        plan = solved.plan
    return Recipe(steps=tuple(steps), budget=int(share * dense), training=_training(settings), seed=run.seed)


def _share(budget: str) -> float:
    share = Budget.parse(budget).share
    assert share is not None
    return share


def _write(folder: Path, facts: Facts) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "facts.json", facts.to_json(indent=1))


# All of them.


def planned(
    names: tuple[str, ...], budgets: tuple[str, ...], seeds: tuple[int, ...], baseline_seeds: tuple[int, ...] | None = None
) -> list[Run]:
    """In the order in which they run: 50 % and the first seed come first, 70 % last. The dense model has no budget.

    Baselines have the seeds `baseline_seeds`, or all of them.
    """
    order = sorted(budgets, key=lambda budget: (budget != "50%", budget == "70%", budgets.index(budget)))
    runs = []
    for seed in seeds:
        for position, budget in enumerate(order):
            for name in names:
                if name in BASELINES and baseline_seeds is not None and seed not in baseline_seeds:
                    continue
                if name != DENSE:
                    runs.append(Run(name=name, budget=budget, seed=seed))
                elif position == 0:
                    runs.append(Run(name=name, budget="100%", seed=seed))
    return runs


def read(output: Path, run: Run) -> Facts | None:
    path = output / "runs" / run.folder / "facts.json"
    return Facts.from_json(path.read_text()) if path.is_file() else None


def is_done(output: Path, run: Run) -> bool:
    facts = read(output, run)
    return facts is not None and not facts.error


def carry_out(runs: list[Run], data: Path, output: Path, settings: Settings, processes: int) -> None:
    """A run that fails, or whose process is killed, is recorded as failed and does not stop the others."""
    with ThreadPoolExecutor(processes) as pool:
        futures = {pool.submit(_in_own_process, run, data, output, settings): run for run in runs}
        try:
            for number, future in enumerate(as_completed(futures), 1):
                future.result()
                print(f"[{number}/{len(runs)}] {result_line(output, futures[future])}", file=sys.stderr, flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _in_own_process(run: Run, data: Path, output: Path, settings: Settings) -> None:
    process = get_context("spawn").Process(target=_perform_or_record, args=(run, data, output, settings))
    process.start()
    process.join()
    if process.exitcode != 0 and not is_done(output, run):
        _fail(run, output, f"its process ended with {process.exitcode}")


def _perform_or_record(run: Run, data: Path, output: Path, settings: Settings) -> None:
    try:
        perform(run, data, output, settings)
    except Exception as error:  # noqa: BLE001 - any error is the run's own, and the table has it
        traceback.print_exc()
        _fail(run, output, f"{type(error).__name__}: {error}")


def _fail(run: Run, output: Path, reason: str) -> None:
    _write(output / "runs" / run.folder, Facts(name=run.name, budget=run.budget, seed=run.seed, error=reason))


def result_line(output: Path, run: Run) -> str:
    facts = read(output, run)
    assert facts is not None
    if facts.error:
        return f"{run.folder}: failed: {facts.error}"
    return f"{run.folder}: test {facts.test:.2%}, {facts.share:.1%} of the FLOPs, {facts.minutes:.1f} minutes"


def estimated_minutes(run: Run, settings: Settings) -> float:
    """On an idle core: training, four evaluations on 2,000 validation images, and the test images in float32 (half as fast)."""
    cost = _share(run.budget)
    passes = settings.epochs * (settings.images or 48_000)
    return cost * (passes / _TRAINED + 4 * 2_000 / _SEEN + 2 * 10_000 / _SEEN) / 60


def same_settings(output: Path, settings: Settings) -> None:
    """Exits where the folder has runs of other settings, which must not be mixed into one table."""
    path = output / "settings.json"
    if not path.is_file():
        output.mkdir(parents=True, exist_ok=True)
        path.write_text(settings.to_json(indent=1))
    elif (found := Settings.from_json(path.read_text())) != settings:
        raise SystemExit(f"{output} holds runs of other settings ({found.to_json()}); name another --output")
