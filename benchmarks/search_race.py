"""autoslim's search compared with others, by epochs spent: hypervolume, and the best accuracy within each budget.

    python benchmarks/search_race.py --output runs/race [--seeds 10] [--epochs 600] [--only random,autoslim]

All contestants draw from the default space and run one trial at a time; the surrogate (`simulation`) gives the results. Models are selected
by their observed accuracies and scored by their accuracies without noise. A trial that was stopped early counts as the model that it was
by then, except for autoslim, which delivers complete trials only. Finished runs in --output are reused; `--table` only writes the table and
the figure. With `--real` every trial is trained as those of the table were, and its observed accuracy is its score.

`autoslim, every method and chain` searches the whole default space, `autoslim, every method` its methods alone. The table lacks some of
these and all chains, so that both are for `--real` alone.

`autoslim, prior` begins with the trials of other models that are part of it (`--prior auto`), all others with none. The race's own model is
never among those: `--trials-table` names it.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import logging
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from line_chart import Line, line_chart
from simulation.cluster import Cluster, Search
from simulation.ours import our_search
from simulation.peer import PeerSearch
from simulation.peers import PEERS
from simulation.real import TrainedWorld, WholeWorld
from simulation.score import Found, scores
from simulation.surrogate import Surrogate
from simulation.table import TRIALS, Trials
from simulation.world import World
from trial_table import STARTS, table_of

from autoslim.core.files import write_atomically
from autoslim.core.record import Record
from autoslim.search import load_prior
from autoslim.search.prior import Prior

OURS: dict[str, dict[str, Any]] = {
    "autoslim": {},
    "autoslim, prior": {"prior": "auto"},
    "autoslim, nothing stopped": {"scheduler": "none"},
    "autoslim, TPE": {"sampler": "tpe"},
    "autoslim, TPE, nothing stopped": {"sampler": "tpe", "scheduler": "none"},
    "autoslim, random recipes": {"sampler": "random"},
    "autoslim, random recipes, nothing stopped": {"sampler": "random", "scheduler": "none"},
    "autoslim, every method": {},
    "autoslim, every method and chain": {},
}
"""Changes to a job with default settings. Trials of the race's own model are no part of the prior."""

WHOLE = {"autoslim, every method": False, "autoslim, every method and chain": True}
"""Contestants with more of the default space than the table knows, with `--real` alone; whether they have its chains, too."""

MANY = 100_000
"""More trials than any run needs; the epochs end it."""
POINTS = 60
FIGURES = Path(__file__).parent / "figures"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result(Record):
    """Scores of a run at increasing numbers of epochs."""

    name: str
    seed: int
    epochs: tuple[float, ...]
    hypervolumes: tuple[float, ...]
    best: dict[str, tuple[float, ...]]
    trials: int
    complete: int
    seconds: float


def perform(name: str, seed: int, epochs: float, table: Path, trained: Path | None = None) -> Result:
    """One run with the surrogate, or with real training, whose trials are kept in the folder `trained`."""
    began = time.process_time()
    world = World(_surrogate(table), seed)
    if trained is not None:
        start = next(start for name, start in STARTS.items() if table_of(name).stem == table.stem)
        data = Path(os.environ["AUTOSLIM_DATA"]).absolute()
        if name in WHOLE:
            world = WholeWorld.open(world, data, trained, start, chains=WHOLE[name])
        else:
            world = TrainedWorld.open(world, data, trained, start)
    cluster = Cluster(contestant(name, world, seed, table), world.trial, workers=1, seed=seed).run(epochs=epochs)
    found = deliverable(cluster, world, stopped_count=name not in OURS)
    at = [epochs * (index + 1) / POINTS for index in range(POINTS)]
    curve = scores(found, at, budgets=world.budgets, dense_flops=world.dense_flops, chance=world.surrogate.base.chance)
    return Result(
        name=name,
        seed=seed,
        epochs=tuple(at),
        hypervolumes=tuple(score.hypervolume for score in curve),
        best={label: tuple(score.best[label] for score in curve) for label in world.budgets},
        trials=len({event.number for event in cluster.events}),
        complete=sum(event.last for event in cluster.events),
        seconds=time.process_time() - began,
    )


@functools.cache
def _surrogate(table: Path) -> Surrogate:
    return Surrogate(Trials.read(table))


def contestant(name: str, world: World, seed: int, table: Path) -> Search:
    if name in OURS:
        settings = {"prior": "none", **OURS[name]}
        return our_search(world, trials=MANY, seed=seed, **{**settings, "prior": others(settings["prior"], table)})
    return PeerSearch(PEERS[name](world, seed), world, trials=MANY)


def others(prior: str, table: Path) -> Prior | None:
    """The tables of the prior with this name, but for that of `table`."""
    tables = load_prior(prior)
    return None if tables is None else tuple(one for one in tables if f"trials_{one.name}" != table.stem)


def deliverable(cluster: Cluster, world: World, *, stopped_count: bool, by_seconds: bool = False) -> list[Found]:
    """The models that could be delivered, and since when: complete trials, and with `stopped_count` every trial after each epoch."""
    found = []
    for event in cluster.events:
        accuracy = event.report.metrics.get("accuracy")
        if accuracy is None or not (event.last or stopped_count):
            continue
        recipe = cluster.recipes[event.number]
        found.append(
            Found(
                at=event.seconds if by_seconds else event.epochs,
                flops=world.flops(recipe),
                observed=accuracy,
                true_accuracy=world.true_accuracy(recipe, event.report.epoch),
            )
        )
    return found


# All of them.


def carry_out(
    runs: Sequence[tuple[str, int]], output: Path, epochs: float, table: Path, processes: int, trained: Path | None
) -> None:
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_quiet) as pool:
        futures = {pool.submit(perform, name, seed, epochs, table, trained): (name, seed) for name, seed in runs}
        for number, future in enumerate(as_completed(futures), 1):
            result = future.result()
            write_atomically(file_of(output, result.name, result.seed), result.to_json())
            print(
                f"[{number}/{len(runs)}] {result.name}, seed {result.seed}: hypervolume {result.hypervolumes[-1]:.4f}, "
                f"{result.trials} trials, {result.complete} complete, {result.seconds:.0f} s",
                file=sys.stderr,
                flush=True,
            )


def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("ray").setLevel(logging.ERROR)


def file_of(output: Path, name: str, seed: int) -> Path:
    return output / f"{name.replace(', ', '-').replace(' ', '_')}-{seed}.json"


def read(output: Path, names: Sequence[str], seeds: Sequence[int]) -> dict[str, list[Result]]:
    """Finished runs by contestant."""
    found: dict[str, list[Result]] = {}
    for name in names:
        paths = [file_of(output, name, seed) for seed in seeds]
        results = [Result.from_json(path.read_text()) for path in paths if path.is_file()]
        if results:
            found[name] = results
    return found


# The table.


def table(results: dict[str, list[Result]]) -> str:
    """Means over the seeds, with the standard error of the hypervolume."""
    labels = list(next(iter(results.values()))[0].best)
    goal = mean_curve(results["random"])[-1] if "random" in results else None
    total = next(iter(results.values()))[0].epochs[-1]
    lines = [
        f"| | hypervolume after {total / 4:.0f} epochs | after {total:.0f} | epochs to random's {total:.0f} | "
        + " | ".join(f"best within {label}, after {total / 4:.0f} and {total:.0f}" for label in labels)
        + " | trials |",
        "|---|---|---|---|" + "---|" * (len(labels) + 1),
    ]
    order = sorted(results, key=lambda name: -mean_curve(results[name])[quarter(results[name][0])])
    for name in order:
        runs = results[name]
        early, late = (_with_error([run.hypervolumes[at] for run in runs]) for at in (quarter(runs[0]), -1))
        best = [_both(runs, label) for label in labels]
        trials = f"{np.mean([run.trials for run in runs]):.0f}, {np.mean([run.complete for run in runs]):.0f} to the end"
        lines.append(f"| {name} | {early} | {late} | {_reached(runs, goal)} | " + " | ".join(best) + f" | {trials} |")
    return "\n".join(lines)


def mean_curve(runs: Sequence[Result]) -> list[float]:
    return [float(value) for value in np.mean([run.hypervolumes for run in runs], axis=0)]


def quarter(run: Result) -> int:
    return len(run.epochs) // 4 - 1


def _with_error(values: Sequence[float]) -> str:
    error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{np.mean(values):.4f} ± {error:.4f}"


def _both(runs: Sequence[Result], label: str) -> str:
    early, late = (100 * np.mean([run.best[label][at] for run in runs]) for at in (quarter(runs[0]), -1))
    return f"{early:.2f} / {late:.2f}"


def _reached(runs: Sequence[Result], goal: float | None) -> str:
    """The epochs at which the mean curve reaches `goal`."""
    if goal is None:
        return ""
    for epochs, value in zip(runs[0].epochs, mean_curve(runs), strict=True):
        if value >= goal:
            return f"{epochs:.0f} ({epochs / runs[0].epochs[-1]:.0%})"
    return "not reached"


def figure(results: dict[str, list[Result]]) -> str:
    """From a tenth of the epochs on: before, the first few trials differ more than the contestants do later."""
    lines = []
    for name, runs in results.items():
        first = len(runs[0].epochs) // 10
        spread = [float(np.std(values) / len(runs) ** 0.5) for values in zip(*[run.hypervolumes for run in runs], strict=True)]
        points = list(zip(runs[0].epochs, mean_curve(runs), strict=True))
        lines.append(Line(name=name, points=points[first:], spread=spread[first:]))
    return line_chart(lines, x="epochs spent", y="hypervolume")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--trials-table", type=Path, default=TRIALS, help="made by trial_table.py")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=float, default=600.0)
    parser.add_argument("--only", help="contestants, separated by semicolons (default: all, some of them with --real alone)")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--real", action="store_true", help="train every trial (AUTOSLIM_DATA must name the folder with cifar10/)"
    )
    parser.add_argument("--table", action="store_true", help="only write the table and the figure")
    arguments = parser.parse_args()
    if arguments.real and "AUTOSLIM_DATA" not in os.environ:
        parser.error("--real needs AUTOSLIM_DATA, the folder that holds cifar10/")
    known = [name for name in (*OURS, *PEERS) if arguments.real or name not in WHOLE]
    names = known if arguments.only is None else arguments.only.split(";")
    if unknown := [name for name in names if name not in known]:
        more = "" if arguments.real else f"; with --real also: {'; '.join(WHOLE)}"
        parser.error(f"--only names {unknown[0]!r}; allowed: {'; '.join(known)}{more}")
    output = arguments.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    seeds = range(arguments.seeds)
    todo = [(name, seed) for seed in seeds for name in names if not file_of(output, name, seed).is_file()]
    if todo and not arguments.table:
        trained = output / "trained" if arguments.real else None
        carry_out(todo, output, arguments.epochs, arguments.trials_table.absolute(), arguments.processes, trained)
    results = read(output, names, seeds)
    FIGURES.mkdir(exist_ok=True)
    (FIGURES / ("search_race_real.svg" if arguments.real else "search_race.svg")).write_text(figure(results))
    print(table(results))


if __name__ == "__main__":
    main()
