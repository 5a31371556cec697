"""What do trials of other models tell about the recipes of a model? Rank correlations on the tables of real trials.

    python benchmarks/prior_quality.py [--repeats 20]

The search's surrogate is fitted to a few trials of one model, drawn at random, with and without the trials of the other models as prior,
and ranks the rest of that model's trials. The prior never has the model itself. No accuracy here comes from a simulation.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from search_race import others
from simulation.table import Row, Trials
from trial_table import STARTS, table_of

from autoslim.core.plan import Plan
from autoslim.methods import METHODS
from autoslim.search import Space, load_space, parse_space
from autoslim.search.samplers.features import Encoder, Vector
from autoslim.search.samplers.prior_fit import fit_prior, levelled
from autoslim.search.samplers.surrogate import Surrogate

OWN = (3, 6, 12, 24, 48, 96)
"""Numbers of own trials."""
METHODS_OF_TABLES = "methods: {" + ", ".join(f"{name}: " for name in METHODS) + "}"


def whole_space() -> Space:
    """Every knob in its whole range: the tables are older than some ranges of the default space, whose training settings these are."""
    return parse_space(METHODS_OF_TABLES, source="whole.yaml").replace(training=load_space("default").training)


def correlation(
    rows: Sequence[Row], vectors: Sequence[Vector], own: int, prior: Surrogate | None, *, seed: int
) -> tuple[float, float]:
    """Of predicted and measured accuracies of the trials that the surrogate has not seen, and its mean absolute error."""
    order = random.Random(f"prior {seed}").sample(range(len(rows)), len(rows))
    # A repeated recipe is never on both sides.
    groups = {rows[index].group for index in order[:own]}
    unseen = [index for index in order[own:] if rows[index].group not in groups]
    accuracies = [rows[index].accuracy for index in order[:own]]
    surrogate = Surrogate([vectors[index] for index in order[:own]], [1.0] * own, accuracies, seed=seed, prior=prior)
    predicted = surrogate.predict([vectors[index] for index in unseen]).mean(0)
    measured = np.array([rows[index].accuracy for index in unseen])
    return float(spearmanr(predicted, measured).statistic), float(np.abs(predicted - measured).mean())


def lines_of(table: Path, repeats: int) -> list[str]:
    trials = Trials.read(table)
    encoder = Encoder(whole_space(), trials.shape, METHODS, Plan.dense(trials.shape))
    vectors = [encoder.encode(row.recipe, row.plan) for row in trials.rows]
    known = levelled(others("auto", table) or (), encoder)
    prior = fit_prior(known, encoder, seed=0)
    lines = []
    for own in (count for count in OWN if count < 0.75 * len(trials.rows)):
        cells = []
        for one in (prior, None):
            found = [correlation(trials.rows, vectors, own, one, seed=seed) for seed in range(repeats)]
            ranks, errors = zip(*found, strict=True)
            cells.append(f"{np.nanmean(ranks):.3f} | {100 * np.mean(errors):.2f}")
        lines.append(f"| {table.stem.removeprefix('trials_')} ({len(known)}) | {own} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20, help="draws of the own trials")
    arguments = parser.parse_args()
    print("| model left out (trials of others) | own trials | rank correlation, prior | error, points | no prior | error |")
    print("|---|---|---|---|---|---|")
    for start in STARTS:
        if table_of(start).is_file():
            print("\n".join(lines_of(table_of(start), arguments.repeats)))


if __name__ == "__main__":
    main()
