"""How few FLOPs hold on to an accuracy: a search with `--max-drop` beside searches within budgets that were guessed.

    python benchmarks/accuracy_goal.py [--drop 2] [--trials 24] [--seeds 10] [--table benchmarks/data/trials_cifar10_d64.parquet]
    AUTOSLIM_DATA=... python benchmarks/accuracy_goal.py --real runs/goal [--drop 1] [--trials 24] [--images 6000] [--epochs 3]
        [--only "the goal;70 %, 50 % and 35 %"]

All searches have equally many trials, and of each the cheapest model counts that keeps to the drop on the validation images. The first
form plays the searches on the surrogate of trained trials (`simulation`); a model's true drop is that without the noise of its trial. With
`--real` the trials are trained on CIFAR-10, one seed of each search; finished searches in the folder are reused, and an interrupted one
goes on. A folder is for one drop and one set of settings.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Mapping
from pathlib import Path

from search_race import others
from simulation.cluster import Cluster
from simulation.ours import our_search
from simulation.surrogate import Surrogate
from simulation.table import TRIALS, Trials
from simulation.world import World

from autoslim.core.accuracy_goal import AccuracyGoal
from autoslim.core.budget import Budget
from autoslim.core.job import DatasetSpec, ModelSpec, SearchJob
from autoslim.core.recipe import TrainingSettings
from autoslim.core.run_folder import RunFolder
from autoslim.core.selection import cheapest_above
from autoslim.store.of_folder import store_of

SEARCHES: dict[str, tuple[str, ...]] = {
    "the goal": (),
    "70 %, 50 % and 35 %": ("70%", "50%", "35%"),
    "50 %": ("50%",),
    "80 %": ("80%",),
}
"""The budgets of each search; the first one has the goal instead."""

_SETTINGS = ("goal", "trials", "training", "dataset")
"""What all searches of a folder have in common."""

Cheapest = tuple[float, float]
"""The share of the dense model's FLOPs of the cheapest model that keeps to the goal, and the points that it truly loses."""


def simulated(name: str, seed: int, goal: AccuracyGoal, *, trials: int, table: Path, surrogate: Surrogate) -> Cheapest | None:
    """None where no trial keeps to the goal."""
    world, base = World(surrogate, seed), surrogate.base
    budgets = {label: int((Budget.parse(label).share or 1.0) * world.dense_flops) for label in SEARCHES[name]}
    own = {} if budgets else {"goal": goal}
    search = our_search(world, trials=trials, seed=seed, budgets=budgets, prior=others("auto", table), **own)
    Cluster(search, world.trial, workers=1, seed=seed).run()
    found = cheapest_above(search.store.trials("simulated"), goal.floor(base.dense_accuracy))
    if found is None:
        return None
    return (found.flops or 0) / world.dense_flops, 100 * (base.dense_accuracy - world.true_accuracy(found.recipe))


def trained(name: str, goal: AccuracyGoal, folder: Path, *, trials: int, images: int, epochs: float) -> Cheapest | None:
    """A search on CIFAR-10; what it loses is on its validation images.

    Raises:
        SystemExit: the folder has a search with other settings.
    """
    data, budgets = Path(os.environ["AUTOSLIM_DATA"]).absolute(), tuple(Budget.parse(label) for label in SEARCHES[name])
    output = (folder / name.replace(" ", "").replace("%", "")).absolute()
    job = SearchJob(
        id=output.name,
        model=ModelSpec(name=str(data / "vit-cifar10")),
        dataset=DatasetSpec(source=str(data / "cifar10"), validation_share=0.04, train_limit=images or None),
        budgets=budgets,
        goal=None if budgets else goal,
        trials=trials,
        training=TrainingSettings(epochs=epochs),
        prior="auto",
        speed=(),
        address="local",
        output=str(output),
    )
    started = RunFolder(output).read_job() if RunFolder(output).job_file.is_file() else job
    if differs := [name for name in _SETTINGS if getattr(started, name) != getattr(job, name)]:
        raise SystemExit(f"{output} was started with another {differs[0]} ({getattr(started, differs[0])}); give another folder")
    if not (output / "summary.json").is_file():
        from workers.search.driver import run_search

        summary = run_search(job, resume=RunFolder(output).job_file.is_file())
        (output / "summary.json").write_text(summary.to_json(indent=1))
    with store_of(output, job) as store:
        base, results = store.job(job.id).base, store.trials(job.id)
    assert base is not None, "a search that has ended has measured its dense model"
    found = cheapest_above(results, goal.floor(base.dense_accuracy))
    return (
        None if found is None else ((found.flops or 0) / base.dense_flops, 100 * (base.dense_accuracy - (found.accuracy or 0.0)))
    )


def lines_on_test(folder: Path) -> list[str]:
    """What each delivered model of the finished searches loses on the test images, which none was chosen by."""
    from workers.search.model_line import describe_model
    from workers.search.summary import Summary

    summaries = {path.parent.name: Summary.from_json(path.read_text()) for path in sorted(folder.glob("*/summary.json"))}
    return [
        f"{name}, {model.label} ({(model.flops or 0) / summary.dense_flops:.1%} of the FLOPs): {describe_model(model, summary)}"
        for name, summary in summaries.items()
        for model in summary.models
    ]


def table_of(found: Mapping[str, list[Cheapest | None]]) -> str:
    """A row a search, over its seeds."""
    lines = ["| search | FLOPs, median | FLOPs, from to | points lost, median | without a model |", "|---|---|---|---|---|"]
    for name, runs in found.items():
        kept = [run for run in runs if run is not None]
        cells = ["", "", ""]
        if kept:
            shares = [share for share, _ in kept]
            lost = statistics.median(lost for _, lost in kept)
            cells = [f"{statistics.median(shares):.1%}", f"{min(shares):.1%} to {max(shares):.1%}", f"{lost:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} | {len(runs) - len(kept)} of {len(runs)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drop", type=float, default=2.0)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--table", type=Path, default=TRIALS)
    parser.add_argument("--real", type=Path, help="folder of the searches that are trained")
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--only", default=";".join(SEARCHES), help="searches, separated by semicolons (default: all)")
    options = parser.parse_args()
    names = options.only.split(";")
    if unknown := set(names) - set(SEARCHES):
        parser.error(f"--only has {sorted(unknown)}; allowed: {', '.join(map(repr, SEARCHES))}")
    goal = AccuracyGoal(max_drop=options.drop)
    if options.real is not None:
        if "AUTOSLIM_DATA" not in os.environ:
            parser.error("AUTOSLIM_DATA must name the folder that holds cifar10/ and vit-cifar10/")
        sizes = {"trials": options.trials, "images": options.images, "epochs": options.epochs}
        found = {name: [trained(name, goal, options.real, **sizes)] for name in names}
    else:
        surrogate = Surrogate(Trials.read(options.table))
        shared = {"trials": options.trials, "table": options.table, "surrogate": surrogate}
        found = {name: [simulated(name, seed, goal, **shared) for seed in range(options.seeds)] for name in names}
    print(table_of(found))
    if options.real is not None:
        print("\n".join(["", *lines_on_test(options.real)]))


if __name__ == "__main__":
    main()
