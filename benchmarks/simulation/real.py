"""`TrainedWorld`: a world whose trials are really trained, with the settings of the table; only the clock is simulated.

`WholeWorld` has every method of the space, and its chains, of which the table knows nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import torch
from trial_table import DenseStart, open_context, trained

from autoslim.core.files import write_atomically
from autoslim.core.recipe import Recipe
from autoslim.core.result import EpochReport, Phase
from autoslim.errors import TrialError
from autoslim.search import Space, load_space
from autoslim.training import TrialContext
from simulation.cluster import SimulatedTrial
from simulation.trial import schedule
from simulation.world import World


@dataclasses.dataclass(frozen=True)
class TrainedWorld(World):
    """`seed` is every trial's. Trials are stored in `folder` and trained once, whichever contestants ask for them.

    Accuracies do not come from the surrogate; noise is that of the training, so a model is scored by its observed accuracy.
    """

    context: TrialContext = dataclasses.field(kw_only=True)
    folder: Path = dataclasses.field(kw_only=True)

    @classmethod
    def open(cls, world: World, data: Path, folder: Path, start: DenseStart, **own: Any) -> TrainedWorld:
        """`start` is the dense model of the world's table; `own` are further fields."""
        torch.set_num_threads(1)
        context = open_context(data, folder, start)
        return cls(world.surrogate, world.seed, world.space_name, context=context, folder=folder, **own)

    def trial(self, recipe: Recipe) -> SimulatedTrial:
        simulated = super().trial(recipe)
        points = {(round(point["epoch"], 4), point["phase"]): point["accuracy"] for point in self._curve(recipe)}
        reports = tuple(
            EpochReport(epoch=mark.epoch, phase=mark.phase, metrics=_metrics(points.get((round(mark.epoch, 4), mark.phase))))
            for mark in schedule(recipe, self.shape, steps=self.surrogate.steps)
        )
        final = reports[-1].metrics.get("accuracy", self.surrogate.base.chance)
        return dataclasses.replace(simulated, reports=reports, outcome=simulated.outcome.replace(accuracy=final))

    def true_accuracy(self, recipe: Recipe, epoch: float | None = None) -> float:
        return [point["accuracy"] for point in self._curve(recipe) if epoch is None or point["epoch"] <= epoch + 1e-4][-1]

    def _curve(self, recipe: Recipe) -> list[dict[str, Any]]:
        seeded = recipe.replace(seed=self.seed)
        path = self.folder / "race" / f"{seeded.key}.json"
        if not path.is_file():
            curve, outcome = trained(seeded, self.context, self.folder / "race" / seeded.key)
            if isinstance(outcome, TrialError):
                raise outcome
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(curve))
        found: list[dict[str, Any]] = json.loads(path.read_text())
        return found


@dataclasses.dataclass(frozen=True)
class WholeWorld(TrainedWorld):
    """Every method of the space alone and, with `chains`, its chains. The surrogate gives no more than the budgets and the training."""

    chains: bool = dataclasses.field(kw_only=True)

    @functools.cached_property
    def space(self) -> Space:
        whole = load_space(self.space_name)
        return whole if self.chains else whole.replace(chains=())

    def trial(self, recipe: Recipe) -> SimulatedTrial:
        """Only the reports with an accuracy are made: the others stop no trial."""
        curve = self._curve(recipe)
        reports = tuple(
            EpochReport(epoch=point["epoch"], phase=Phase(point["phase"]), metrics={"accuracy": point["accuracy"]})
            for point in curve
        )
        return self.finished(recipe, reports, tuple(point["seconds"] for point in curve))


def _metrics(accuracy: float | None) -> dict[str, float]:
    return {} if accuracy is None else {"accuracy": accuracy}
