"""`BudgetAllocator`: which budget each trial is for, by its number alone.

Nothing but the number decides, so that a resumed search and one with parallel trials allocate the same.

1. One control for each budget: its recipe is drawn at random, methods in turn. The search is compared with these trials.
2. Each method that no control has used, once, for the free target and the budgets in turn. A sampler that learns about a method at one
   budget can use this at the other budgets. Trying every method at every budget first would take most of a short search.
3. The budgets in turn, and every `FREE_PERIOD`-th trial a free one, which keeps the FLOPs that its recipe was drawn with. Without free
   trials the Pareto front has points at the budgets only.

An accuracy floor (`floor_target`) takes its turn like a budget, but has no control: its FLOPs are another trial's every time, and a random
recipe at one of them is no comparison. Where it is the only target, its trials explore by themselves, and fewer are free.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence

from autoslim.core.result import Origin, Target

FREE_PERIOD, FLOOR_FREE_PERIOD = 3, 6
"""After the opening, every third trial is free. In the search race (`docs/benchmarks/search-race.md`) this gives a larger hypervolume
than every fourth, and the best accuracies at the budgets differ by at most 0.15 points. Every sixth is where the only target is a floor."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a trial is for.

    `target` is a budget's label, a floor's or `free`, `origin` is CONTROL or SAMPLER, `methods` are the names that
    the recipe's method is chosen from. `models` are the labels of the starts that its model is chosen from; none where there is only one.
    With `best_known` the recipe is the best known one of its one method. `flops` are the multiply-accumulates that recipes are solved onto
    where the target has no budget for all its trials.
    """

    target: str
    origin: Origin
    methods: tuple[str, ...]
    models: tuple[str, ...] = ()
    best_known: bool = False
    flops: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class BudgetAllocator:
    """`feasible_methods` has the names of the methods that can reach each target: the budgets' labels in order, that of the `floor`, if
    any, and `free`.

    `feasible_models` has, for each target and method, the labels of the starts from which it does; empty where there is only one start.
    `best_known` are the methods whose first trial is their best known recipe, in this order: all that reach the free target, those that
    a control has used too, or none.
    """

    feasible_methods: Mapping[str, Sequence[str]]
    feasible_models: Mapping[str, Mapping[str, Sequence[str]]] = dataclasses.field(default_factory=dict)
    best_known: Sequence[str] = ()
    floor: str | None = None

    def assign(self, number: int) -> Assignment:
        """The assignment of trial `number`, counted from 0."""
        if number < len(self._opening):
            return self._opening[number]
        after_opening = number - len(self._opening)
        period = free_period(budgets=len(self._budgets), floor=self.floor is not None)
        if not self._budgets or is_free(after_opening, period):
            return self._to_sampler(Target.FREE)
        # The trials that are not free are numbered 0, 1, 2, ... so that every budget gets the same number of them.
        cycles, position = divmod(after_opening, period)
        return self._to_sampler(self._budgets[(cycles * (period - 1) + position) % len(self._budgets)])

    def _to_sampler(self, target: str) -> Assignment:
        models = models_of(self.feasible_models.get(target, {}))
        return Assignment(target=target, origin=Origin.SAMPLER, methods=tuple(self.feasible_methods[target]), models=models)

    @functools.cached_property
    def _budgets(self) -> list[str]:
        """The labels that models are delivered for, the floor's included."""
        return [target for target in self.feasible_methods if target != Target.FREE]

    @functools.cached_property
    def _opening(self) -> list[Assignment]:
        controls = self._controls()
        if self.best_known:
            free = [] if self._budgets == [self.floor] else [Target.FREE]
            firsts = self._firsts(self.best_known, [*self._budgets, *free])
            # In turns: a short search has its controls, and does not spend its first trials on them alone.
            return self._with_models_in_turn(
                [each for pair in itertools.zip_longest(firsts, controls) for each in pair if each is not None]
            )
        used = {control.methods[0] for control in controls}
        missing = [method for method in self.feasible_methods[Target.FREE] if method not in used]
        # The free target comes first: what a method can do at any FLOPs says more than what it does at one budget.
        return self._with_models_in_turn(controls + self._firsts(missing, [Target.FREE, *self._budgets]))

    def _firsts(self, methods: Sequence[str], targets: Sequence[str]) -> list[Assignment]:
        """One trial for each of the methods, the targets in turns."""
        firsts = []
        for index, method in enumerate(methods):
            target = targets[index % len(targets)]
            reaches = method in self.feasible_methods[target]
            firsts.append(
                Assignment(
                    target=target if reaches else Target.FREE,
                    origin=Origin.SAMPLER,
                    methods=(method,),
                    best_known=bool(self.best_known),
                )
            )
        return firsts

    def _with_models_in_turn(self, opening: Sequence[Assignment]) -> list[Assignment]:
        """Each with one start: the one with the fewest trials before it, of those that reach its target.

        The best known recipes and the others are counted apart: where they take turns, one start would get all of the ones.
        """
        used: dict[tuple[bool, str], int] = {}
        assigned = []
        for assignment in opening:
            able = self.feasible_models.get(assignment.target, {}).get(assignment.methods[0], ())
            # Every method with every start would take most of a short search, as every method at every budget would.
            kind = assignment.best_known
            models = (min(able, key=lambda label: used.get((kind, label), 0)),) if able else ()
            for label in models:
                used[kind, label] = used.get((kind, label), 0) + 1
            assigned.append(dataclasses.replace(assignment, models=models))
        return assigned

    def _controls(self) -> list[Assignment]:
        used: dict[str, int] = {}
        controls = []
        for target in [target for target in self._budgets if target != self.floor] if self._budgets else [Target.FREE]:
            # The method with the fewest controls so far: an average over methods is the fairest comparison with the search.
            method = min(self.feasible_methods[target], key=lambda name: used.get(name, 0))
            used[method] = used.get(method, 0) + 1
            controls.append(Assignment(target=target, origin=Origin.CONTROL, methods=(method,)))
        return controls


def models_of(by_method: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The starts that some method reaches a target from, each once, in the order in which they come first."""
    return tuple(dict.fromkeys(label for labels in by_method.values() for label in labels))


def free_period(*, budgets: int, floor: bool) -> int:
    """One in so many trials after the opening is free; `budgets` counts the floor, too."""
    return FLOOR_FREE_PERIOD if floor and budgets == 1 else FREE_PERIOD


def is_free(after_opening: int, period: int = FREE_PERIOD) -> bool:
    """Whether a trial is free by its number after the opening, counted from 0."""
    return after_opening % period == period - 1
