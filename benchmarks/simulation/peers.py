"""Other optimisers with the same space, trials and cluster. Their two objectives are accuracy up and FLOPs down."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna

from autoslim.search.space.space import TRAINING, Space, Suggest, bounds
from simulation.peer import Blind, Peer
from simulation.world import World


class PlainOptuna(Blind):
    """Optuna's own ask and tell, with the sampler's defaults."""

    def __init__(self, sampler: optuna.samplers.BaseSampler) -> None:
        super().__init__(0)
        self._study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        self._trials: dict[int, optuna.Trial] = {}

    def ask(self, number: int) -> Suggest:
        self._trials[number] = self._study.ask()
        return self._trials[number]

    def refuse(self, number: int) -> None:
        self.fail(number)

    def tell(self, number: int, accuracy: float, share: float) -> None:
        self._study.tell(self._trials.pop(number), [accuracy, share])

    def fail(self, number: int) -> None:
        self._study.tell(self._trials.pop(number), state=optuna.trial.TrialState.FAIL)


class _Answers:
    """A `Suggest` that answers from values that were drawn already."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self._values[name])

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return int(self._values[name])

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._values[name]


class RayOptuna(Blind):
    """Ray Tune's `OptunaSearch`, with the calls that Tune's controller would make, and with Tune's ASHA on accuracy where `halving`.

    A trial that ASHA stops is reported as complete, as the controller does.
    """

    def __init__(self, world: World, seed: int, *, halving: bool) -> None:
        super().__init__(seed)
        from ray.tune.schedulers import AsyncHyperBandScheduler
        from ray.tune.search.optuna import OptunaSearch

        def space(trial: optuna.Trial) -> None:
            world.space.sample(trial, world.methods, world.shape)

        self._search = OptunaSearch(space, metric=["accuracy", "flops"], mode=["max", "min"], seed=seed)
        self._epochs, self._asha = world.training.epochs, None
        if halving:
            self._asha = AsyncHyperBandScheduler(
                time_attr="epoch", metric="accuracy", mode="max", max_t=world.training.epochs, grace_period=1, reduction_factor=3
            )
        self._ids: dict[int, str] = {}
        self._asked = 0

    def ask(self, number: int) -> Suggest:
        self._asked += 1
        self._ids[number] = f"{self._asked}"
        values = self._search.suggest(self._ids[number])
        assert isinstance(values, dict)
        if self._asha is not None:
            self._asha.on_trial_add(None, _RayTrial(self._ids[number]))
        return _Answers(values)

    def refuse(self, number: int) -> None:
        self.fail(number)

    def should_prune(self, number: int, epoch: float, accuracy: float, share: float) -> bool:
        if self._asha is None:
            return False
        result = {"epoch": epoch, "accuracy": accuracy, "flops": share}
        # ASHA also stops every trial that reaches `max_t`; such a trial is complete, not pruned.
        return self._asha.on_trial_result(None, _RayTrial(self._ids[number]), result) == "STOP" and epoch < self._epochs

    def tell(self, number: int, accuracy: float, share: float) -> None:
        self._search.on_trial_complete(self._ids.pop(number), {"accuracy": accuracy, "flops": share})

    def fail(self, number: int) -> None:
        self._search.on_trial_complete(self._ids.pop(number), None, error=True)


@dataclasses.dataclass(frozen=True)
class _RayTrial:
    """The part of a trial that ASHA reads."""

    trial_id: str


class Moasha(Blind):
    """Syne Tune's MOASHA as it is published, on error and the share of FLOPs, with rungs from one epoch on.

    It draws from numpy's global generator, which its `random_seed` does not set.
    """

    def __init__(self, world: World, seed: int) -> None:
        super().__init__(seed)
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

        np.random.seed(seed)
        self._moasha = MOASHA(
            _syne_space(world.space, world.shape.depth),
            metrics=["error", "flops"],
            time_attr="epoch",
            max_t=int(world.training.epochs),
            grace_period=1,
            reduction_factor=3,
        )
        self._trials: dict[int, Any] = {}

    def ask(self, number: int) -> Suggest:
        suggestion = self._moasha.suggest()
        self._trials[number] = _SyneTrial(number)
        self._moasha.on_trial_add(self._trials[number])
        return _Answers(suggestion.config)

    def refuse(self, number: int) -> None:
        self.fail(number)

    def should_prune(self, number: int, epoch: float, accuracy: float, share: float) -> bool:
        result = {"epoch": epoch, "error": 1 - accuracy, "flops": share}
        stops = self._moasha.on_trial_result(self._trials[number], result) == "STOP"
        return bool(stops) and epoch < self._moasha.max_t

    def tell(self, number: int, accuracy: float, share: float) -> None:
        pass

    def fail(self, number: int) -> None:
        self._moasha.on_trial_remove(self._trials.pop(number))


@dataclasses.dataclass(frozen=True)
class _SyneTrial:
    trial_id: int


def _syne_space(space: Space, depth: int) -> dict[str, Any]:
    """Without conditional parameters, which Syne Tune does not have; knobs of methods that were not drawn are ignored."""
    from syne_tune.config_space import choice, loguniform, randint, uniform

    flat: dict[str, Any] = {"method": choice(list(space.units))}
    ranges = {f"{method}.{name}": knob for method, knobs in space.methods.items() for name, knob in knobs.items()}
    ranges |= {f"training.{key}": space.training[key] for key in TRAINING if key in space.training}
    for name, knob in ranges.items():
        if not knob.searched:
            continue
        if knob.choices is not None:
            flat[name] = choice(list(knob.choices))
        elif knob.kind == "float":
            low, high = bounds(knob, depth)
            flat[name] = low if low == high else (loguniform if knob.log else uniform)(low, high)
        else:
            low, high = bounds(knob, depth)
            flat[name] = int(low) if low == high else randint(int(low), int(high))
    return flat


def nsga2(world: World, seed: int) -> Peer:
    return PlainOptuna(optuna.samplers.NSGAIISampler(seed=seed))


def motpe(world: World, seed: int) -> Peer:
    return PlainOptuna(optuna.samplers.TPESampler(seed=seed))


PEERS: dict[str, Callable[[World, int], Peer]] = {
    "random": lambda world, seed: Blind(seed),
    "Optuna NSGA-II": nsga2,
    "Optuna MO-TPE": motpe,
    "Ray OptunaSearch": lambda world, seed: RayOptuna(world, seed, halving=False),
    "Ray OptunaSearch, ASHA": lambda world, seed: RayOptuna(world, seed, halving=True),
    "Syne Tune MOASHA": Moasha,
}
