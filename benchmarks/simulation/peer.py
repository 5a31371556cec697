"""A peer as the cluster sees it.

Peers know nothing of budgets: they draw the method and its knobs, and these are the recipe. A draw that no model can be built from costs
nothing, and is reported as failed to peers that take such a report. Accuracies are reported after every epoch, and the peer may stop the
trial.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

from autoslim.core.recipe import Recipe
from autoslim.core.result import EpochReport, Outcome
from autoslim.errors import AutoslimError
from autoslim.methods import METHODS
from autoslim.methods.chain import evaluate_chain
from autoslim.search.space.space import Suggest, Uniform
from simulation.world import World

_DRAWS = 1000


@dataclasses.dataclass(frozen=True)
class PeerTask:
    number: int
    recipe: Recipe


class Peer(Protocol):
    """An optimiser with an ask-and-tell interface; a `share` is FLOPs over the dense model's."""

    def ask(self, number: int) -> Suggest: ...

    def refuse(self, number: int) -> None:
        """No model can be built from the draw; another one is asked for under the same number."""

    def should_prune(self, number: int, epoch: float, accuracy: float, share: float) -> bool:
        """Whether the trial is stopped after this report."""

    def tell(self, number: int, accuracy: float, share: float) -> None: ...

    def fail(self, number: int) -> None: ...


class PeerSearch:
    """A peer as the cluster sees it: a `simulation.cluster.Search`."""

    def __init__(self, peer: Peer, world: World, *, trials: int) -> None:
        self.peer, self.world, self.trials = peer, world, trials
        self._shares: dict[int, float] = {}
        self._last: dict[int, float] = {}

    def next_trial(self) -> PeerTask | None:
        number = len(self._shares)
        if number >= self.trials:
            return None
        for _ in range(_DRAWS):
            recipe = self._built(self.peer.ask(number))
            if recipe is not None:
                self._shares[number] = self.world.flops(recipe) / self.world.dense_flops
                return PeerTask(number, recipe)
            self.peer.refuse(number)
        raise AssertionError(f"{_DRAWS} draws in a row cannot be built")

    def _built(self, suggest: Suggest) -> Recipe | None:
        world = self.world
        sample = world.space.sample(suggest, world.methods, world.shape)
        try:
            solved = evaluate_chain(METHODS, world.shape, world.dense, sample.steps)
        except AutoslimError:
            return None
        if not world.space.contains(dataclasses.replace(sample, steps=solved.steps), world.shape):
            return None
        return Recipe(
            steps=solved.steps,
            budget=solved.flops,
            training=world.training.replace(**sample.training),
            seed=0,
        )

    def report(self, number: int, report: EpochReport) -> bool:
        accuracy = report.metrics.get("accuracy")
        if accuracy is None:
            return True
        self._last[number] = accuracy
        if not self.peer.should_prune(number, report.epoch, accuracy, self._shares[number]):
            return True
        self.peer.tell(number, accuracy, self._shares[number])
        return False

    def complete(self, number: int, outcome: Outcome) -> None:
        self.peer.tell(number, outcome.accuracy, self._shares[number])

    def fail(self, number: int, error_class: str, error: str) -> None:
        self.peer.fail(number)


class Blind:
    """Random search, and the base of peers that stop nothing and get only final results."""

    def __init__(self, seed: int) -> None:
        self._uniform = Uniform(f"blind {seed}")

    def ask(self, number: int) -> Suggest:
        return self._uniform

    def refuse(self, number: int) -> None:
        pass

    def should_prune(self, number: int, epoch: float, accuracy: float, share: float) -> bool:
        return False

    def tell(self, number: int, accuracy: float, share: float) -> None:
        pass

    def fail(self, number: int) -> None:
        pass
