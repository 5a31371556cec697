"""From a table of real trials (`trial_table.py`) to the one that searches of other models begin with.

    python benchmarks/prior_table.py

Every committed table in `benchmarks/data/` becomes a file in `autoslim/search/prior/`: the complete trials, in their order, without their
training settings, their curves and their times.
"""

from __future__ import annotations

from pathlib import Path

from simulation.table import Trials
from trial_table import DATA, STARTS, table_of

import autoslim.search.prior as package
from autoslim.core.files import write_atomically
from autoslim.core.recipe import Recipe, Step
from autoslim.methods import METHODS
from autoslim.search.prior import PriorTable
from autoslim.search.prior.table import FORMAT, prior_trial

NAMES = {"cifar10": "CIFAR-10", "signdigits100": "Sign Language Digits, 100 px"}
"""Of the folders of images."""
PACKAGE = Path(package.__file__).parent

OWN_NAMES = {
    ("sit", "slots", "image"): "sit_seeded",
    ("patch_slimming", "dead", "merge"): "patch_slimming_merging",
    ("life_regression", "dead", "merge"): "life_regression_merging",
}
"""Names of methods that were values of a knob of a paper's method when the trials were made."""


def under_own_name(recipe: Recipe) -> Recipe:
    """With the present names of its methods."""

    def named(step: Step) -> Step:
        found = [own for (name, knob, value), own in OWN_NAMES.items() if (step.method, step.knobs.get(knob)) == (name, value)]
        return step.replace(method=found[0]) if found else step

    return recipe.replace(steps=tuple(map(named, recipe.steps)))


def prior_table(start: str, trials: Trials) -> PriorTable:
    """`start` is a name in `STARTS`."""
    shape, height = trials.shape, trials.shape.image_size[0]
    patch = height // shape.grid[0]
    return PriorTable(
        format=FORMAT,
        name=start,
        model=f"ViT of width {shape.dim} with {shape.depth} blocks and {shape.heads} heads, patch {patch} at {height} px",
        data=NAMES[STARTS[start].data],
        command=f"AUTOSLIM_DATA=... python benchmarks/trial_table.py --of {start} --output runs/trials; python benchmarks/prior_table.py",
        depth=shape.depth,
        dense_accuracy=trials.base.dense_accuracy,
        epochs=trials.training.epochs,
        images=trials.steps * trials.training.batch_size,
        trials=tuple(
            prior_trial(
                under_own_name(row.recipe), row.plan, trials.base.dense_accuracy - row.accuracy, shape=shape, methods=METHODS
            )
            for row in trials.rows
        ),
    )


def main() -> None:
    for start in STARTS:
        if not table_of(start).is_file():
            print(f"{start}: there is no table in {DATA}")
            continue
        table = prior_table(start, Trials.read(table_of(start)))
        path = PACKAGE / f"{table.name}.json"
        write_atomically(path, table.to_lines())
        print(f"{len(table.trials)} trials in {path}")


if __name__ == "__main__":
    main()
