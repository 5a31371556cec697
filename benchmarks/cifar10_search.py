"""A search on CIFAR-10 beside its controls: does it pay to search, and do the models beat what they must beat?

    AUTOSLIM_DATA=... python benchmarks/cifar10_search.py --output runs/cifar10 [--images 6000] [--epochs 3] [--trials 12]

Two budgets share one search. The controls get the same dense start, the same teacher and the same epochs: the dense model tuned, and
random tokens (drawn anew for every image) at each budget, each with two learning rates of which the better on the validation images
counts. Every model is judged once on the 10,000 test images. Each step is kept in --output and not repeated. `--images 0` takes all.
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
from judging import format_accuracy, format_difference, test_hits

from autoslim.core.budget import Budget, format_flops
from autoslim.core.job import DatasetSpec, ModelSpec, SearchJob
from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe, Step, Training
from autoslim.core.run_folder import RunFolder
from autoslim.cost import count_flops, predict
from autoslim.data import prepare_dataset
from autoslim.methods import METHODS, solve
from autoslim.training import TrialContext, run_trial

BUDGETS = ("70%", "50%")
RATES = (2.5e-4, 5e-4)


@dataclasses.dataclass(frozen=True)
class Keep:
    """Settings of a run, the same for the search and its controls."""

    data: Path
    output: Path
    images: int
    epochs: float
    trials: int
    seed: int

    @property
    def dataset(self) -> DatasetSpec:
        # 2,000 validation images: enough to choose by, and no large part of a trial's time.
        return DatasetSpec(source=str(self.data / "cifar10"), validation_share=0.04, train_limit=self.images or None)

    @property
    def base(self) -> Path:
        return self.data / "vit-cifar10"


def search(keep: Keep) -> Path:
    """Runs or goes on with the search; returns its folder."""
    from workers.search.driver import run_search

    folder = keep.output / "search"
    job = SearchJob(
        id="cifar10-search",
        model=ModelSpec(name=str(keep.base)),
        dataset=keep.dataset,
        budgets=tuple(Budget.parse(label) for label in BUDGETS),
        trials=keep.trials,
        training=Training(epochs=keep.epochs),
        seed=keep.seed,
        concurrency=2,
        output=str(folder.absolute()),
    )
    if not (folder / "summary.json").is_file():
        summary = run_search(job, resume=(folder / "job.json").is_file())
        (folder / "summary.json").write_text(summary.to_json(indent=1))
    return folder


def control(keep: Keep, name: str, share: float, rate: float) -> dict[str, Any]:
    """Tunes one control; its test predictions are kept as hits and misses."""
    torch.set_num_threads(1)
    METHODS["random_tokens"] = RandomTokens()
    target = keep.output / "controls" / f"{name}-{share:g}-{rate:g}"
    if (target / "facts.json").is_file():
        return dict(json.loads((target / "facts.json").read_text()))
    dataset = prepare_dataset(keep.dataset, keep.output / "search" / "cache", seed=keep.seed)
    context = TrialContext.open(base=keep.base, dataset=dataset.path)
    shape, training = context.dense.shape, Training(epochs=keep.epochs, lr=rate)
    dense = Plan.dense(shape)
    budget = int(share * predict(shape, dense).total)
    method = METHODS["random_tokens"]
    # With every threshold at 0 and nothing dropped, random tokens are the dense model itself.
    knobs = method.repair(shape, {}) if share < 1 else method.repair(shape, {f"life_threshold_{k}": 0.0 for k in range(1, 4)})
    solved = solve(method, shape, dense, knobs, budget)
    recipe = Recipe(steps=(Step(method=method.name, knobs=solved.knobs),), budget=budget, training=training, seed=keep.seed)
    reports = run_trial(recipe, context, target)
    while True:
        try:
            next(reports)
        except StopIteration as end:
            outcome = end.value
            break
    from autoslim.export.artifact import load

    hits = test_hits(load(target / "model"), context)
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
    arguments = parser.parse_args()
    if "AUTOSLIM_DATA" not in os.environ:
        parser.error("AUTOSLIM_DATA must name the folder that holds cifar10/ and vit-cifar10/")
    keep = Keep(data=Path(os.environ["AUTOSLIM_DATA"]).absolute(), **vars(arguments))
    began = time.monotonic()
    folder = search(keep)
    runs = [("dense", 1.0, rate) for rate in RATES]
    runs += [("random", Budget.parse(label).share or 1.0, rate) for label in BUDGETS for rate in RATES]
    with ProcessPoolExecutor(2) as pool:
        facts = list(pool.map(control, *zip(*[(keep, *run) for run in runs], strict=True)))
    print(table(keep, folder, dict(zip(runs, facts, strict=True))))
    print(f"\n{(time.monotonic() - began) / 60:.0f} minutes in this call, on {os.cpu_count()} cores")


def table(keep: Keep, folder: Path, controls: dict[tuple[str, float, float], dict[str, Any]]) -> str:
    from autoslim.export.artifact import load, load_config

    context = TrialContext.open(base=keep.base, dataset=prepare_dataset(keep.dataset, folder / "cache", seed=keep.seed).path)
    dense = test_hits(context.teacher, context)
    flops = count_flops(context.teacher, context.dense.shape.image_size)
    rows = [("dense, as it is", flops, dense, "", "")]
    best = {}
    for (name, share, _), found in controls.items():
        if (name, share) not in best or found["validation"] > best[name, share]["validation"]:
            best[name, share] = found
    hits = {key: np.load(Path(found["folder"]) / "hits.npy") for key, found in best.items()}
    tuned = hits["dense", 1.0]
    rows.append(("dense, tuned as long", best["dense", 1.0]["flops"], tuned, format_difference([tuned], [dense]), ""))
    for label in BUDGETS:
        share = Budget.parse(label).share or 1.0
        control_hits = hits["random", share]
        rows.append(
            (
                f"{label}: random tokens",
                best["random", share]["flops"],
                control_hits,
                format_difference([control_hits], [tuned]),
                "",
            )
        )
        config = load_config(RunFolder(folder).model(label))
        slimmed = test_hits(load(RunFolder(folder).model(label)), context)
        name = f"{label}: autoslim ({config.recipe.method})"
        rows.append(
            (
                name,
                config.flops.fvcore,
                slimmed,
                format_difference([slimmed], [tuned]),
                format_difference([slimmed], [control_hits]),
            )
        )
    lines = ["| model | FLOPs | test top-1, % (95 %) | against dense, tuned | against random tokens |", "|---|---|---|---|---|"]
    lines += [f"| {n} | {format_flops(f)} ({f / flops:.1%}) | {format_accuracy(h)} | {d} | {r} |" for n, f, h, d, r in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
