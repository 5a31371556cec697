"""A search on CIFAR-10 compared with its controls: does searching pay, and are its models better than what costs nothing to find?

    AUTOSLIM_DATA=... python benchmarks/cifar10_search.py --output runs/cifar10 [--images 6000] [--epochs 3] [--trials 12]

One search has two budgets. The controls start from the same dense model and have the same teacher and epochs: the dense model finetuned,
and random tokens (drawn for every image) at each budget, each with two learning rates, of which the better one on the validation images
counts. Every model is evaluated once on the 10,000 test images. Finished steps in --output are reused. `--images 0` takes all images.

The space is `default`, its chains included. `--second-start runs/start/model` adds a dense model, such as those of `dense_start.py`; the
controls stay those of the first.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from baselines.random_tokens import RandomTokens
from holdout_accuracy import Hits, format_accuracy, format_difference, holdout_hits

from autoslim.core.budget import Budget, format_flops
from autoslim.core.job import DatasetSpec, ModelSpec, SearchJob
from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe, Step, TrainingSettings
from autoslim.core.run_folder import RunFolder
from autoslim.cost import count_flops, predict
from autoslim.data import prepare_dataset
from autoslim.methods import METHODS, solve
from autoslim.training import TrialContext, run_trial

BUDGETS = ("70%", "50%")
RATES = (2.5e-4, 5e-4)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings that the search and its controls share."""

    data: Path
    output: Path
    images: int
    epochs: float
    trials: int
    seed: int
    second_start: Path | None = None

    @property
    def dataset(self) -> DatasetSpec:
        # 2,000 validation images: enough to compare recipes, and a small part of a trial's time.
        return DatasetSpec(source=str(self.data / "cifar10"), validation_share=0.04, train_limit=self.images or None)

    @property
    def base(self) -> Path:
        return self.data / "vit-cifar10"


def make_job(settings: Settings, folder: Path) -> SearchJob:
    return SearchJob(
        id="cifar10-search",
        model=ModelSpec(name=str(settings.base)),
        more_models=() if settings.second_start is None else (ModelSpec(name=str(settings.second_start.absolute())),),
        dataset=settings.dataset,
        budgets=tuple(Budget.parse(label) for label in BUDGETS),
        trials=settings.trials,
        training=TrainingSettings(epochs=settings.epochs),
        seed=settings.seed,
        concurrency=2,
        output=str(folder.absolute()),
    )


def search(settings: Settings) -> Path:
    """Runs or resumes the search; returns its folder."""
    from workers.search.driver import run_search

    folder = settings.output / "search"
    job = make_job(settings, folder)
    if not (folder / "summary.json").is_file():
        summary = run_search(job, resume=(folder / "job.json").is_file())
        (folder / "summary.json").write_text(summary.to_json(indent=1))
    return folder


def control(settings: Settings, name: str, share: float, rate: float) -> dict[str, Any]:
    """Finetunes one control and writes which test images it classifies correctly."""
    torch.set_num_threads(1)
    METHODS["random_tokens"] = RandomTokens()
    target = settings.output / "controls" / f"{name}-{share:g}-{rate:g}"
    if (target / "facts.json").is_file():
        return dict(json.loads((target / "facts.json").read_text()))
    dataset = prepare_dataset(settings.dataset, settings.output / "search" / "cache", seed=settings.seed)
    context = TrialContext.open(base=settings.base, dataset=dataset.path)
    shape, training = context.dense.shape, TrainingSettings(epochs=settings.epochs, lr=rate)
    dense = Plan.dense(shape)
    budget = int(share * predict(shape, dense).total)
    method = METHODS["random_tokens"]
    # With every threshold at 0 and nothing dropped, random tokens are the dense model itself.
    knobs = method.repair(shape, {}) if share < 1 else method.repair(shape, {f"life_threshold_{k}": 0.0 for k in range(1, 4)})
    solved = solve(method, shape, dense, knobs, budget)
    recipe = Recipe(steps=(Step(method=method.name, knobs=solved.knobs),), budget=budget, training=training, seed=settings.seed)
    reports = run_trial(recipe, context, target)
    while True:
        try:
            next(reports)
        except StopIteration as end:
            outcome = end.value
            break
    from autoslim.export.artifact import load

    hits = holdout_hits(load(target / "model"), context)
    np.save(target / "hits.npy", hits)
    facts = {
        "validation": outcome.accuracy,
        "flops": outcome.flops,
        "rate": rate,
        "folder": str(target),
        "seconds": outcome.seconds,
    }
    (target / "facts.json").write_text(json.dumps(facts))
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--second-start", type=Path, help="the folder of another dense model, in timm's hub format")
    arguments = parser.parse_args()
    if "AUTOSLIM_DATA" not in os.environ:
        parser.error("AUTOSLIM_DATA must name the folder that holds cifar10/ and vit-cifar10/")
    settings = Settings(data=Path(os.environ["AUTOSLIM_DATA"]).absolute(), **vars(arguments))
    began = time.monotonic()
    folder = search(settings)
    runs = [("dense", 1.0, rate) for rate in RATES]
    runs += [("random", Budget.parse(label).share or 1.0, rate) for label in BUDGETS for rate in RATES]
    with ProcessPoolExecutor(2) as pool:
        facts = list(pool.map(control, *zip(*[(settings, *run) for run in runs], strict=True)))
    print(table(settings, folder, dict(zip(runs, facts, strict=True))))
    print(f"\n{(time.monotonic() - began) / 60:.0f} minutes in this call, on {os.cpu_count()} cores")


Row = tuple[str, int, Hits, str, str]
"""Name, FLOPs, hits, and the differences to the finetuned dense model and to random tokens."""


def table(settings: Settings, folder: Path, controls: dict[tuple[str, float, float], dict[str, Any]]) -> str:
    dataset = prepare_dataset(settings.dataset, folder / "cache", seed=settings.seed)
    starts = make_job(settings, folder).starts
    # Each start has images as it was trained on them.
    contexts = {label: TrialContext.open(base=Path(model.name), dataset=dataset.path) for label, model in starts.items()}
    context = next(iter(contexts.values()))
    dense = holdout_hits(context.teacher, context)
    flops = count_flops(context.teacher, context.dense.shape.image_size)
    best = best_controls(controls)
    tuned = _hits(best["dense", 1.0])
    rows: list[Row] = [("dense, as given", flops, dense, "", "")]
    rows.append(("dense, finetuned as long", best["dense", 1.0]["flops"], tuned, format_difference([tuned], [dense]), ""))
    for label in BUDGETS:
        random = best["random", Budget.parse(label).share or 1.0]
        rows.append((f"{label}: random tokens", random["flops"], _hits(random), format_difference([_hits(random)], [tuned]), ""))
        rows.append(_searched(label, folder, contexts, tuned, _hits(random)))
    lines = [
        "| model | FLOPs | test top-1, % (95 %) | against dense, finetuned | against random tokens |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {n} | {format_flops(f)} ({f / flops:.1%}) | {format_accuracy(h)} | {d} | {r} |" for n, f, h, d, r in rows]
    return "\n".join(lines)


def best_controls(controls: dict[tuple[str, float, float], dict[str, Any]]) -> dict[tuple[str, float], dict[str, Any]]:
    """By name and share of the FLOPs, the control with the better learning rate on the validation images."""
    best: dict[tuple[str, float], dict[str, Any]] = {}
    for (name, share, _), found in controls.items():
        if (name, share) not in best or found["validation"] > best[name, share]["validation"]:
            best[name, share] = found
    return best


def _hits(control: dict[str, Any]) -> Hits:
    hits: Hits = np.load(Path(control["folder"]) / "hits.npy")
    return hits


def _searched(label: str, folder: Path, contexts: dict[str, TrialContext], tuned: Hits, random: Hits) -> Row:
    from autoslim.export.artifact import load, load_config

    model = RunFolder(folder).model(label)
    config = load_config(model)
    hits = holdout_hits(load(model), contexts[config.recipe.model])
    name = f"{label}: autoslim ({config.recipe.title})"
    return name, config.flops.fvcore, hits, format_difference([hits], [tuned]), format_difference([hits], [random])


if __name__ == "__main__":
    main()
