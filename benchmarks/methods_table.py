"""Every method and every baseline on CIFAR-10, at the same budgets, with the same start, teacher, images and epochs.

    AUTOSLIM_DATA=... python benchmarks/methods_table.py --output runs/methods [--full] [--only tome,sit] [--dry-run]

A run is a method or baseline at a budget with a seed. Finished runs in --output are reused; failed ones are run again, and the table has
their errors until then. All epochs count: those of a mask search, of scores or of a regressor are taken from the finetuning. The default
is 10,000 training images, 3 epochs, and two processes of one thread each; --full takes all images and 10 epochs. The teacher's logits
are computed once and shared by the runs, which changes no result.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
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
from cached_teacher import SharedLogitsContext
from holdout_accuracy import Hits, format_difference, holdout_hits, paired

from autoslim.core.budget import Budget
from autoslim.core.files import write_atomically
from autoslim.core.job import DatasetSpec
from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs, Recipe, Step, Training
from autoslim.core.record import Record
from autoslim.cost import predict
from autoslim.data import prepare_dataset
from autoslim.export.artifact import load
from autoslim.methods import METHODS, solve
from autoslim.training import TrialContext, run_trial

TRAINING = Training(lr=3e-4, distillation=0.9, temperature=2.0)
"""Used by every run; selected on validation images with random tokens, ViT-Slim and the dense model (docs/benchmarks/settings.md)."""

OURS = ("patch_slimming", "dps", "life_regression", "sit", "vit_slim")
BASELINES = tuple(baselines.BASELINES)
BUDGETS = ("70%", "50%", "35%")
DENSE, RANDOM = "dense", "random_tokens"


def _layers(knob: str, *layers: int) -> Knobs:
    return {f"{knob}_{k}": layer for k, layer in enumerate(layers, 1)}


DESIGN: dict[str, dict[str, Knobs]] = {
    "random_tokens": {"": _layers("drop_layer", 1, 2, 3)},
    "evit": {"": _layers("layer", 1, 3, 5)},
    "life_regression": {"35%": _layers("drop_layer", 1, 2, 3)},
    "vit_slim": {"35%": {"patches": "up", "patch_share": 0.2}},
    "sit": {"70%": {"stage_layer_1": 3}, "50%": {"stage_layer_1": 2}, "35%": {"stage_layer_1": 1}},
}
"""Knobs other than the defaults, by method and budget (`""`: every other budget), selected on validation images."""

# Images a second on one core: training steps of the dense model, and its forward passes.
_TRAINED, _SEEN = 178, 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Record):
    """Settings that every run's result depends on; a folder has runs of one setting only."""

    images: int
    epochs: float
    training: Training


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


# One run.


def perform(run: Run, data: Path, output: Path, settings: Settings) -> None:
    """Trains the model and evaluates it as its user would load it; writes `facts.json` and `hits.npy`."""
    torch.set_num_threads(1)
    baselines.register()
    began = time.monotonic()
    context = _open_context(data, output, settings)
    recipe = _recipe(run, context, settings)
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
        base=data / "vit-cifar10", dataset=dataset.path, shared=output / "shared", common=_training(settings)
    )
    return SharedLogitsContext.over(context, output / "teacher")


def _training(settings: Settings) -> Training:
    return settings.training.replace(epochs=settings.epochs)


def _recipe(run: Run, context: TrialContext, settings: Settings) -> Recipe:
    """Of `a+b` each method reduces the FLOPs by the same factor."""
    shape, share, steps = context.dense.shape, _share(run.budget), []
    plan = Plan.dense(shape)
    dense, names = predict(shape, plan).total, run.name.split("+")
    for position, name in enumerate(names, 1):
        method, design = METHODS[name], DESIGN.get(name, {})
        method.check(shape)
        knobs = design.get(run.budget, design.get("", {}))
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


def planned(names: tuple[str, ...], budgets: tuple[str, ...], seeds: tuple[int, ...]) -> list[Run]:
    """In the order in which they run: 50 % and the first seed come first. The dense model has no budget."""
    order = sorted(budgets, key=lambda budget: (budget != "50%", budgets.index(budget)))
    runs = []
    for seed in seeds:
        for position, budget in enumerate(order):
            for name in names:
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
                print(f"[{number}/{len(runs)}] {_line(output, futures[future])}", file=sys.stderr, flush=True)
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


def _line(output: Path, run: Run) -> str:
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


# The table.


class Results:
    """Results of the finished runs: hits by seed for each name and budget."""

    def __init__(self, output: Path, runs: list[Run]) -> None:
        self.facts: dict[tuple[str, str], list[Facts]] = {}
        self.hits: dict[tuple[str, str], dict[int, Hits]] = {}
        self.failed: list[Facts] = []
        for run in runs:
            facts = read(output, run)
            if facts is None:
                continue
            if facts.error:
                self.failed.append(facts)
                continue
            key = (run.name, run.budget)
            self.facts.setdefault(key, []).append(facts)
            self.hits.setdefault(key, {})[run.seed] = np.load(output / "runs" / run.folder / "hits.npy")

    def key(self, name: str, budget: str) -> tuple[str, str] | None:
        """The key of a run, or None where it is not finished. The dense model is the same for every budget."""
        key = (name, "100%" if name == DENSE else budget)
        return key if key in self.facts else None

    def accuracy(self, key: tuple[str, str]) -> float:
        return 100 * float(np.mean([facts.test for facts in self.facts[key]]))

    def pair(self, key: tuple[str, str], other: tuple[str, str]) -> tuple[list[Hits], list[Hits]] | None:
        """The hits of both, for the seeds that both have."""
        seeds = sorted(self.hits[key].keys() & self.hits[other].keys())
        return ([self.hits[key][s] for s in seeds], [self.hits[other][s] for s in seeds]) if seeds else None

    def at(self, budget: str, *, ours: bool) -> list[tuple[str, str]]:
        """Keys at this budget, of autoslim's methods or of the baselines; the dense model is neither."""
        return [key for key in self.facts if key[1] == budget and (key[0] not in BASELINES) == ours]

    def best(self, budget: str, *, ours: bool) -> tuple[str, str] | None:
        return max(self.at(budget, ours=ours), key=self.accuracy, default=None)


def table(results: Results, names: tuple[str, ...], budgets: tuple[str, ...]) -> str:
    """Markdown: an overview of all budgets, a table and a verdict for each budget, and the failed runs."""
    lines = [_overview(results, names, budgets)]
    for budget in budgets:
        lines += ["", f"**{budget} of the FLOPs**", "", _details(results, names, budget), "", verdict(results, budget)]
    lines += [f"- failed: {f.name} at {f.budget}, seed {f.seed}: {f.error}" for f in results.failed]
    return "\n".join(lines)


def _overview(results: Results, names: tuple[str, ...], budgets: tuple[str, ...]) -> str:
    lines = ["| test top-1, %, mean of the seeds | " + " | ".join(budgets) + " |", "|---|" + "---|" * len(budgets)]
    for name in names:
        keys = [results.key(name, budget) for budget in budgets]
        cells = [f"{results.accuracy(key):.2f}" if key else "" for key in keys]
        if name == DENSE and keys[0]:
            cells = [f"{results.accuracy(keys[0]):.2f} at 100 %"] + [""] * (len(budgets) - 1)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _details(results: Results, names: tuple[str, ...], budget: str) -> str:
    lines = [
        "| | FLOPs used | test top-1, % (by seed) | vs. random tokens | vs. the best baseline | vs. dense, finetuned | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    best = results.best(budget, ours=False)
    for name in names:
        key = results.key(name, budget)
        if key is None:
            continue
        facts = results.facts[key]
        seeds = ", ".join(f"{f.test:.2%}".rstrip("%") for f in sorted(facts, key=lambda f: f.seed))
        against = [_against(results, key, other) for other in (results.key(RANDOM, budget), best, results.key(DENSE, budget))]
        minutes = np.mean([f.minutes for f in facts])
        label = f"**{name}**" if key == best else name
        share = np.mean([f.share for f in facts])
        cells = [label, f"{share:.1%}", f"{results.accuracy(key):.2f} ({seeds})", *against, f"{minutes:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _against(results: Results, key: tuple[str, str], other: tuple[str, str] | None) -> str:
    pair = results.pair(key, other) if other is not None and other != key else None
    return format_difference(*pair) if pair else ""


def verdict(results: Results, budget: str) -> str:
    """Which is better at `budget`, by the means, with the interval of the difference."""
    ours, theirs = results.best(budget, ours=True), results.best(budget, ours=False)
    behind = []
    if (random := results.key(RANDOM, budget)) is not None:
        behind = [
            key[0] for key in results.at(budget, ours=True) if (pair := results.pair(key, random)) and paired(*pair)[0] <= 0
        ]
    if ours is None or theirs is None or (pair := results.pair(ours, theirs)) is None:
        return f"{budget}: ours and the baselines have no run of the same seed yet."
    sign = "ahead of every baseline" if paired(*pair)[0] > 0 else f"not ahead of {theirs[0]}"
    against = f"Not ahead of random tokens: {', '.join(behind)}." if behind else "All of ours are ahead of random tokens."
    return f"{budget}: the best of ours, {ours[0]}, is {sign}: {format_difference(*pair)} against {theirs[0]}. {against}"


# The command.


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--images", type=int, help="training images, 0 for all (default: 10000)")
    parser.add_argument("--epochs", type=float, help="of every run, a method's own training included (default: 3)")
    parser.add_argument("--full", action="store_true", help="all images, 10 epochs")
    parser.add_argument("--only", default=",".join((*OURS, *BASELINES)), help="names, comma-separated (default: all)")
    parser.add_argument("--budgets", default=",".join(BUDGETS), help="shares of the FLOPs, comma-separated")
    parser.add_argument("--seeds", default="0,1", help="comma-separated")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    parser.add_argument("--dry-run", action="store_true", help="list the runs and their estimated minutes, and start none")
    parser.add_argument("--table", action="store_true", help="print the table of the finished runs, and start none")
    arguments = parser.parse_args()
    if "AUTOSLIM_DATA" not in os.environ:
        parser.error("AUTOSLIM_DATA must name the folder that holds cifar10/ and vit-cifar10/")
    arguments.only = tuple(arguments.only.split(","))
    if unknown := [name for name in arguments.only if name not in BASELINES and not set(name.split("+")) <= set(OURS)]:
        allowed = f"{', '.join((*OURS, *BASELINES))}, and of the first {len(OURS)} such as vit_slim+{OURS[0]}"
        parser.error(f"--only names {unknown[0]!r}; allowed: {allowed}")
    arguments.budgets = tuple(arguments.budgets.split(","))
    arguments.seeds = tuple(int(seed) for seed in arguments.seeds.split(","))
    arguments.images = (0 if arguments.full else 10_000) if arguments.images is None else arguments.images
    arguments.epochs = (10.0 if arguments.full else 3.0) if arguments.epochs is None else arguments.epochs
    return arguments


def same_settings(output: Path, settings: Settings) -> None:
    """Exits where the folder has runs of other settings, which must not be mixed into one table."""
    path = output / "settings.json"
    if not path.is_file():
        output.mkdir(parents=True, exist_ok=True)
        path.write_text(settings.to_json(indent=1))
    elif (found := Settings.from_json(path.read_text())) != settings:
        raise SystemExit(f"{output} holds runs of other settings ({found.to_json()}); name another --output")


def main() -> None:
    arguments = parse()
    settings = Settings(images=arguments.images, epochs=arguments.epochs, training=TRAINING)
    data, output = Path(os.environ["AUTOSLIM_DATA"]).absolute(), arguments.output.absolute()
    runs = planned(arguments.only, arguments.budgets, arguments.seeds)
    todo = [run for run in runs if not is_done(output, run)]
    minutes = [estimated_minutes(run, settings) for run in todo]
    if arguments.dry_run:
        print("\n".join(f"{run.folder}: about {cost:.1f} minutes" for run, cost in zip(todo, minutes, strict=True)))
        print(
            f"{len(todo)} runs to do, {len(runs) - len(todo)} done; about {math.ceil(sum(minutes) / arguments.processes)} minutes"
        )
        return
    same_settings(output, settings)
    began = time.monotonic()
    if todo and not arguments.table:
        carry_out(todo, data, output, settings, arguments.processes)
    print(table(Results(output, runs), arguments.only, arguments.budgets))
    if arguments.table:
        return
    print(f"\n{len(todo)} runs in this call, {(time.monotonic() - began) / 60:.0f} minutes on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
