"""One search on 2, 16, 128 and 1,000 simulated workers, with failures and preemptions: utilisation and time to a hypervolume.

    python benchmarks/scale.py [--trials 3000] [--workers 2,16,128,1000] [--trial-minutes 30]

Coordinator, proposer and pruner are those that run under Ray Tune; a surrogate gives the trials' results and the clock is simulated.
1 % of the trials fail, 5 % of the workers are preempted in an hour, for two minutes each; their trials continue from their last epoch. A
decision takes 50 ms of the driver, the start of a trial 0.3 s. A trial that is trained to its end takes --trial-minutes on average. The
hypervolume to reach is that of 100 random recipes, trained to their end.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from pathlib import Path
from typing import Any

import optuna
from search_race import deliverable
from simulation.cluster import Cluster, Conditions
from simulation.ours import our_search
from simulation.peer import Blind, PeerSearch
from simulation.score import Found, scores
from simulation.surrogate import Surrogate
from simulation.table import TRIALS, Trials
from simulation.world import World

FAILING, PREEMPTED = 0.01, 0.05
RANDOM_TRIALS = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """`replay` are CPU seconds of the simulation; hours are simulated."""

    workers: int
    trials: int
    complete: int
    failures: int
    preemptions: int
    utilisation: float
    utilisation_until_last: float
    lost: float
    hours_to_goal: float | None
    hours: float
    hypervolume: float
    replay: float


def replay(world: World, *, workers: int, trials: int, seed: int, conditions: Conditions, goal: float, **settings: Any) -> Line:
    """`settings` are fields of the job."""
    began = time.process_time()
    search = our_search(world, trials=trials, seed=seed, **settings)
    cluster = Cluster(search, world.trial, workers=workers, conditions=conditions, seed=seed).run()
    replay_seconds = time.process_time() - began
    found = deliverable(cluster, world, stopped_count=False, by_seconds=True)
    curve = scores(
        found,
        sorted({model.at for model in found}),
        budgets=world.budgets,
        dense_flops=world.dense_flops,
        chance=world.surrogate.base.chance,
    )
    tally = cluster.tally
    return Line(
        workers=workers,
        trials=len(cluster.recipes),
        complete=sum(event.last for event in cluster.events),
        failures=tally.failures,
        preemptions=tally.preemptions,
        utilisation=cluster.utilisation,
        utilisation_until_last=cluster.utilisation_until_last,
        lost=tally.lost / (tally.useful + tally.lost),
        hours_to_goal=next((score.at / 3600 for score in curve if score.hypervolume >= goal), None),
        hours=tally.makespan / 3600,
        hypervolume=curve[-1].hypervolume,
        replay=replay_seconds,
    )


def random_found(world: World, seed: int) -> tuple[list[Found], float]:
    """The models of random recipes, and the mean seconds of a trial."""
    cluster = Cluster(PeerSearch(Blind(seed), world, trials=RANDOM_TRIALS), world.trial, workers=1).run()
    seconds = statistics.fmean(world.trial(recipe).outcome.seconds for recipe in cluster.recipes.values())
    return deliverable(cluster, world, stopped_count=False), seconds


def table(lines: list[Line], goal: float) -> str:
    first = lines[0]
    rows = [
        f"| workers | trials (to their end) | utilisation until the last trial began | to the end | work lost | failed | preempted | "
        f"hours to hypervolume {goal:.3f} | speed-up | hours in all | hypervolume | replayed in |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        reached, faster = "not reached", ""
        if line.hours_to_goal is not None:
            reached = f"{line.hours_to_goal:.2f}"
            faster = f"{first.hours_to_goal / line.hours_to_goal:.1f}" if first.hours_to_goal else ""
        rows.append(
            f"| {line.workers:,} | {line.trials:,} ({line.complete:,}) | {line.utilisation_until_last:.1%} | {line.utilisation:.1%} | "
            f"{line.lost:.2%} | {line.failures} | {line.preemptions} | {reached} | {faster} | {line.hours:.1f} | "
            f"{line.hypervolume:.4f} | {line.replay:.0f} s |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials-table", type=Path, default=TRIALS, help="made by trial_table.py")
    parser.add_argument("--workers", default="2,16,128,1000")
    parser.add_argument("--trials", type=int, default=3000)
    parser.add_argument("--trial-minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    world = World(Surrogate(Trials.read(arguments.trials_table)), arguments.seed)
    found, seconds = random_found(world, arguments.seed)
    (score,) = scores(
        found, [float("inf")], budgets=world.budgets, dense_flops=world.dense_flops, chance=world.surrogate.base.chance
    )
    conditions = Conditions(failing=FAILING, preempted=PREEMPTED, duration_factor=60 * arguments.trial_minutes / seconds)
    lines = []
    for workers in [int(text) for text in arguments.workers.split(",")]:
        lines.append(
            replay(
                world,
                workers=workers,
                trials=arguments.trials,
                seed=arguments.seed,
                conditions=conditions,
                goal=score.hypervolume,
            )
        )
    print(table(lines, score.hypervolume))


if __name__ == "__main__":
    main()
