"""What a pool of spot nodes costs a search: time to its end, work that preemptions undo, trials that are given up.

    python benchmarks/spot_pool.py [--trials 100] [--trial-hours 2] [--nodes 16] [--first 4]

Trials are answered by a surrogate on a simulated clock (`simulation`); recipes are random and none is stopped, so that every rule has the
same trials. A node is preempted 0.05, 0.2 or 0.5 times an hour and is away for ten minutes. The pool begins with --first nodes, and one
more joins every ten minutes. Each rule is that of the line above with one change.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from scale import random_found
from simulation.cluster import Cluster, Conditions
from simulation.ours import our_search
from simulation.surrogate import Surrogate
from simulation.table import TRIALS, Trials
from simulation.world import World

RATES = (0.05, 0.2, 0.5)
"""Preemptions of a node in an hour."""
AWAY = JOINING = 600.0
_RULES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("three losses fail a trial; a checkpoint an epoch; slots as at the start", {"retries": 3, "in_a_row": False}),
    ("losses count until the next report", {"retries": 20, "in_a_row": True}),
    ("a checkpoint every ten minutes", {"checkpoint": 600.0}),
    ("a checkpoint on notice, which is no loss", {"notice": True}),
    ("slots follow the nodes", {"slots": None}),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    rule: str
    rate: float
    hours: float
    lost: float
    given_up: int
    preemptions: int


def play(world: World, conditions: Conditions, *, rule: str, nodes: int, trials: int, seed: int) -> Line:
    search = our_search(world, trials=trials, seed=seed, sampler="random", scheduler="none")
    tally = Cluster(search, world.trial, workers=nodes, conditions=conditions, seed=seed).run().tally
    return Line(
        rule=rule,
        rate=conditions.preempted,
        hours=tally.makespan / 3600,
        lost=tally.lost / (tally.useful + tally.lost),
        given_up=tally.given_up,
        preemptions=tally.preemptions,
    )


def lines(world: World, *, nodes: int, first: int, trials: int, trial_hours: float, seed: int) -> list[Line]:
    _, seconds = random_found(world, seed)
    found = []
    for rate in RATES:
        conditions = Conditions(
            preempted=rate, away=AWAY, first=first, joining=JOINING, slots=first, duration_factor=3600 * trial_hours / seconds
        )
        for rule, change in _RULES:
            conditions = dataclasses.replace(conditions, **change)
            found.append(play(world, conditions, rule=rule, nodes=nodes, trials=trials, seed=seed))
    return found


def table(found: list[Line]) -> str:
    rows = [
        "| preemptions of a node an hour | rule | hours | work lost | trials given up | preemptions |",
        "|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {line.rate:g} | {line.rule} | {line.hours:.1f} | {line.lost:.1%} | {line.given_up} | {line.preemptions} |"
        for line in found
    ]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials-table", type=Path, default=TRIALS, help="made by trial_table.py")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--trial-hours", type=float, default=2.0)
    parser.add_argument("--nodes", type=int, default=16)
    parser.add_argument("--first", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    world = World(Surrogate(Trials.read(arguments.trials_table)), arguments.seed)
    found = lines(
        world,
        nodes=arguments.nodes,
        first=arguments.first,
        trials=arguments.trials,
        trial_hours=arguments.trial_hours,
        seed=arguments.seed,
    )
    print(table(found))


if __name__ == "__main__":
    main()
