"""How accurate is a model straight after pruning, before any fine-tuning?

    AUTOSLIM_DATA=... python benchmarks/after_pruning.py [--only width,vit_slim] [--budgets 70%,50%,35%] [--images 1000]

The data and the dense model are those of `methods_table.py`. Every recipe goes through the trial that a search runs, with its default knobs
solved onto the budget, and is stopped at the report after its last pruning. `a+b` is a chain. Accuracies are of training images that are
held out; their standard error is 1.3 points for 1,000 of them, that of a difference of two models on the same images below one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import baselines
import torch
from methods_rows import DESIGN
from methods_runs import TRAINING, Run, Settings, make_recipe

from autoslim.core.job import DatasetSpec
from autoslim.core.recipe import Recipe
from autoslim.core.result import Phase
from autoslim.data import prepare_dataset
from autoslim.training import TrialContext, run_trial
from autoslim.training.device import Precision
from autoslim.training.evaluate import accuracy

TRAIN_IMAGES, EPOCHS = 10_000, 3.0
"""As in `methods_table.py`: what a method trains before it prunes takes its share of these epochs."""
ALL_IMAGES = 50_000
NAMES = ("width", "vit_slim", "width+patch_slimming", "patch_slimming")


def after_pruning(recipe: Recipe, context: TrialContext, folder: Path) -> float:
    """The accuracy at the report after the last pruning."""
    return next(report.metrics["accuracy"] for report in run_trial(recipe, context, folder) if report.phase == Phase.PRUNE)


def open_context(data: Path, work: Path, images: int) -> TrialContext:
    spec = DatasetSpec(source=str(data / "cifar10"), validation_share=images / ALL_IMAGES, train_limit=TRAIN_IMAGES)
    dataset = prepare_dataset(spec, work / "cache", seed=0)
    common = TRAINING.replace(epochs=EPOCHS)
    return TrialContext.open(
        base=data / "vit-cifar10", dataset=dataset.path, shared_folder=work / "shared", shared_training=common
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", default=",".join(NAMES), help="methods, their variants, baselines and chains, separated by commas"
    )
    parser.add_argument("--budgets", default="70%,50%,35%")
    parser.add_argument("--knobs", type=json.loads, default={}, help='other knobs by method, as {"width": {"refit": false}}')
    parser.add_argument("--images", type=int, default=1000, help="held-out training images")
    options = parser.parse_args()
    if "AUTOSLIM_DATA" not in os.environ:
        sys.exit("AUTOSLIM_DATA must name a folder with cifar10 and vit-cifar10")
    torch.set_num_threads(1)
    baselines.register()
    budgets = options.budgets.split(",")
    DESIGN.update({name: {"": knobs} for name, knobs in options.knobs.items()})
    settings = Settings(images=TRAIN_IMAGES, epochs=EPOCHS, training=TRAINING)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        context = open_context(Path(os.environ["AUTOSLIM_DATA"]), work, options.images)
        validation = context.loader(context.splits.validation, TRAINING, seed=0, train=False)
        dense = accuracy(context.teacher, validation, device=context.device, precision=Precision.FLOAT32)
        print(f"| held-out top-1, % | {' | '.join(budgets)} |\n|---|{'---|' * len(budgets)}")
        print(f"| dense | {100 * dense:.1f} at 100 % |{' |' * (len(budgets) - 1)}")
        for name in options.only.split(","):
            cells = []
            for budget in budgets:
                run = Run(name=name, budget=budget, seed=0)
                recipe = make_recipe(run, context, settings)
                cells.append(f"{100 * after_pruning(recipe, context, work / run.folder):.1f}")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
