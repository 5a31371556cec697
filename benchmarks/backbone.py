"""How much of a dense model's features is left after slimming without labels?

    AUTOSLIM_DATA=... python benchmarks/backbone.py --output runs/backbone [--only merge,width] [--budgets 70%,50%]

The start is `vit-cifar10` and the images are those of `cifar10`, whose labels are not read: trials train on the dense model's features. The
result is compared with the dense model on test images: the mean cosine of the pooled features and of the patches, dropped or merged ones
restored, and k-NN top-1 of the pooled features, the only place where labels are read. The agreement straight after pruning is on validation
images. `random_tokens` is trained in the same way. A run that is done is not repeated, so that an interrupted table goes on; a folder has
runs of one setting only.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from pathlib import Path

import baselines
import torch
from methods_runs import TRAINING, Run, Settings, make_recipe

from autoslim.core.files import write_atomically
from autoslim.core.job import DatasetSpec, ModelSpec
from autoslim.core.record import Record
from autoslim.core.result import Phase
from autoslim.data import PreparedDataset, prepare_dataset
from autoslim.training import TrialContext, run_trial
from autoslim.training.feature_evaluation import evaluate_features

NAMES = ("merge", "life_regression", "patch_slimming", "random_tokens", "width")
IMAGES, EPOCHS, TEST_IMAGES, KNOWN = 4_000, 2.0, 2_000, 5_000
"""Training images and passes over them; test images, and labelled images that are their neighbours. Small: minutes a row on one core."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts(Record):
    """One run: the agreement on validation images straight after pruning and at the end, and what is measured on test images."""

    name: str
    budget: str
    pruned: float
    validation: float
    pooled: float
    patches: float
    dense_knn: float
    knn: float
    minutes: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """The images without labels that trials see, the test images, and the labelled set of the probe."""

    unlabelled: PreparedDataset
    probe: PreparedDataset

    @classmethod
    def prepare(cls, data: Path, output: Path, settings: Settings) -> Images:
        # Trials see images of the training file alone; the probe, of which they know no image, divides the test file.
        source, cache = str(data / "cifar10" / "train.parquet"), output / "cache"
        spec = DatasetSpec(source=source, labelled=False, validation_share=TEST_IMAGES / 50_000, train_limit=settings.images)
        probe = DatasetSpec(source=str(data / "cifar10" / "test.parquet"), validation_share=0.2, train_limit=KNOWN)
        return cls(unlabelled=prepare_dataset(spec, cache, seed=0), probe=prepare_dataset(probe, cache, seed=0))


def perform(run: Run, data: Path, output: Path, settings: Settings, images: Images) -> Facts:
    """Slims and trains on features, then evaluates the folder as its user would load it."""
    began, base = time.monotonic(), data / settings.start
    context = TrialContext.open(base=base, dataset=images.unlabelled.path, shared_folder=output / "shared")
    folder = output / "runs" / run.folder
    pruned = validation = 0.0
    for report in run_trial(make_recipe(run, context, settings), context, folder):
        if report.phase is Phase.PRUNE:
            pruned = report.metrics["accuracy"]
        validation = report.metrics.get("accuracy", validation)
    found = evaluate_features(folder / "model", ModelSpec(name=str(base)), images.unlabelled, "test", probe=images.probe)
    assert found.probe is not None
    return Facts(
        name=run.name,
        budget=run.budget,
        pruned=pruned,
        validation=validation,
        pooled=found.agreement.pooled,
        patches=found.agreement.patches,
        dense_knn=found.probe.dense,
        knn=found.probe.slimmed,
        minutes=(time.monotonic() - began) / 60,
    )


def table(facts: list[Facts], budgets: list[str]) -> str:
    """One row a method, and for each budget its cells."""
    heads = ("agreement after pruning", "pooled cosine", "patch cosine", "k-NN top-1, %")
    columns = [f"{head} at {budget}" for budget in budgets for head in heads]
    lines = [f"| method | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for name in dict.fromkeys(fact.name for fact in facts):
        cells = []
        for budget in budgets:
            own = next((fact for fact in facts if (fact.name, fact.budget) == (name, budget)), None)
            numbers = ["", "", "", ""] if own is None else _numbers(own)
            cells += numbers
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    dense = next(iter(facts)).dense_knn
    return "\n".join([*lines, "", f"k-NN top-1 of the dense model: {100 * dense:.1f} %"])


def _numbers(fact: Facts) -> list[str]:
    return [f"{fact.pruned:.3f}", f"{fact.pooled:.3f}", f"{fact.patches:.3f}", f"{100 * fact.knn:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", default=",".join(NAMES), help="methods, their variants and baselines, separated by commas")
    parser.add_argument("--budgets", default="70%,50%")
    parser.add_argument("--images", type=int, default=IMAGES, help="training images")
    parser.add_argument("--epochs", type=float, default=EPOCHS)
    options = parser.parse_args()
    if "AUTOSLIM_DATA" not in os.environ:
        sys.exit("AUTOSLIM_DATA must name a folder with cifar10 and vit-cifar10")
    torch.set_num_threads(1)
    baselines.register()
    data, budgets = Path(os.environ["AUTOSLIM_DATA"]), options.budgets.split(",")
    settings = Settings(images=options.images, epochs=options.epochs, training=TRAINING)
    images, facts = Images.prepare(data, options.output, settings), []
    # The harder budget first: where time ends early, it is the one that is known.
    for budget in reversed(budgets):
        for name in options.only.split(","):
            run = Run(name=name, budget=budget, seed=0)
            path = options.output / "runs" / run.folder / "features.json"
            if not path.is_file():
                write_atomically(path, perform(run, data, options.output, settings, images).to_json(indent=1))
            facts.append(Facts.from_json(path.read_text()))
            print(
                f"{name} at {budget}: {' '.join(_numbers(facts[-1]))}, {facts[-1].minutes:.1f} min", file=sys.stderr, flush=True
            )
    print(table(facts, budgets))


if __name__ == "__main__":
    main()
