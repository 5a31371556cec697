"""`World`: everything a simulated search lives in. The surrogate answers a recipe with a trial."""

from __future__ import annotations

import dataclasses
import functools
import hashlib

from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe, TrainingSettings
from autoslim.core.result import EpochReport, Outcome, Phase
from autoslim.core.shape import ViTShape
from autoslim.cost import predict
from autoslim.methods import METHODS
from autoslim.methods.base import Method
from autoslim.search import Space, load_space
from simulation.cluster import SimulatedTrial
from simulation.surrogate import Surrogate
from simulation.trial import schedule

BUDGETS = {"70%": 0.70, "50%": 0.50, "35%": 0.35}


@dataclasses.dataclass(frozen=True)
class World:
    """`seed` seeds the noise of trials: a recipe has the same noise in every search with this seed."""

    surrogate: Surrogate
    seed: int
    space_name: str = "default"

    @functools.cached_property
    def space(self) -> Space:
        """The space with the methods that the table of real trials has, each alone: of others the surrogate knows nothing."""
        space, known = load_space(self.space_name), self.surrogate.methods
        methods = {name: ranges for name, ranges in space.methods.items() if name in known}
        return space.replace(methods=methods, chains=())

    @functools.cached_property
    def methods(self) -> dict[str, Method]:
        """Those of the space, in the registry's order."""
        return {name: method for name, method in METHODS.items() if name in self.space.methods}

    @property
    def shape(self) -> ViTShape:
        return self.surrogate.shape

    @property
    def training(self) -> TrainingSettings:
        return self.surrogate.training

    @functools.cached_property
    def dense(self) -> Plan:
        return Plan.dense(self.shape)

    @functools.cached_property
    def dense_flops(self) -> int:
        return predict(self.shape, self.dense).total

    @functools.cached_property
    def budgets(self) -> dict[str, int]:
        return {label: int(share * self.dense_flops) for label, share in BUDGETS.items()}

    def plan(self, recipe: Recipe) -> Plan:
        plan = self.dense
        for step in recipe.steps:
            plan = METHODS[step.method].expect(self.shape, plan, step.knobs)
        return plan

    def flops(self, recipe: Recipe) -> int:
        return predict(self.shape, self.plan(recipe)).total

    def trial(self, recipe: Recipe) -> SimulatedTrial:
        """The trial as training the recipe once would be, with noise."""
        marks = schedule(recipe, self.shape, steps=self.surrogate.steps)
        plan = self.plan(recipe)
        answer = self.surrogate.answer(recipe, plan, marks, noise_seed=self._noise_seed(recipe))
        reports = tuple(
            EpochReport(epoch=mark.epoch, phase=mark.phase, metrics={} if value is None else {"accuracy": value})
            for mark, value in zip(marks, answer.accuracies, strict=True)
        )
        return self.finished(recipe, reports, answer.seconds)

    def finished(self, recipe: Recipe, reports: tuple[EpochReport, ...], seconds: tuple[float, ...]) -> SimulatedTrial:
        """A trial that makes these reports and ends with the last one."""
        flops = self.flops(recipe)
        pruned = next(report for report in reports if report.phase == Phase.PRUNE)
        outcome = Outcome(
            recipe=recipe,
            accuracy=reports[-1].metrics["accuracy"],
            accuracy_after_pruning=pruned.metrics["accuracy"],
            flops=flops,
            flops_predicted=flops,
            flops_mean=flops,
            flops_max=flops,
            params=0,
            epochs=reports[-1].epoch,
            seconds=seconds[-1],
        )
        return SimulatedTrial(reports=reports, seconds=seconds, outcome=outcome)

    def true_accuracy(self, recipe: Recipe, epoch: float | None = None) -> float:
        """The accuracy without noise after `epoch` epochs, or at the end. Searches are scored by it."""
        marks = schedule(recipe, self.shape, steps=self.surrogate.steps)
        answer = self.surrogate.answer(recipe, self.plan(recipe), marks, noise_seed=None)
        upto = [
            value
            for mark, value in zip(marks, answer.accuracies, strict=True)
            if value is not None and (epoch is None or mark.epoch <= epoch)
        ]
        return upto[-1]

    def _noise_seed(self, recipe: Recipe) -> int:
        return int.from_bytes(hashlib.sha256(f"{self.seed}:{recipe.key}".encode()).digest()[:8], "big")
