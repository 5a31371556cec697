"""`Sampler`: what proposes recipes, and what every one of them guarantees.

A new sampler is a class here in its own file, a line in `SAMPLERS` and its name in `autoslim.core.job`; the conformance suite in
`tests/search/samplers/test_conformance.py` then runs over it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from autoslim.core.result import TrialResult
from autoslim.search.budget_allocation import Assignment
from autoslim.search.proposal import Proposal
from autoslim.search.recipe_builder import RecipeBuilder
from autoslim.search.samplers.best_known import BestKnown

N_STARTUP_TRIALS = 6
"""Results before a model of them is fitted; until then recipes are drawn at random. Optuna's default of 10 is a large part of a short
search, and by then the opening of `BudgetAllocator` has tried most methods."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerContext:
    """What a sampler is made from, the same for all trials of a search.

    `builder` turns points of the space into proposals; `feasible_methods` has the names of the methods that can reach each target, and
    `feasible_models` the labels of the starts; empty where there is only one.
    `best_known` is what is known from other models, by the label of the start that it is for, or '' where there is only one; empty where
    the search begins with nothing.
    """

    builder: RecipeBuilder
    feasible_methods: Mapping[str, Sequence[str]]
    feasible_models: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    best_known: Mapping[str, BestKnown] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingRequest:
    """One trial to propose a recipe for.

    `history` are all other trials in the order of their numbers, running ones and those of earlier searches (numbers below 0) included.
    `known` are the keys of their recipes.
    """

    number: int
    assignment: Assignment
    history: Sequence[TrialResult]
    known: frozenset[str]


class Sampler(Protocol):
    """Proposes the recipe of a trial.

    Every sampler guarantees:

    - **Purity.** Candidates are a function of the context (its seed included) and the request alone: not of earlier calls, of the
      process, or of the order of hashes. What an instance keeps is a cache. A search that is resumed proposes the same recipes.
    - **Feasibility.** A candidate is inside the space, its method is one of `request.assignment.methods`, its model one of
      `request.assignment.models`, and its plan keeps to the budget; otherwise it says in `infeasible` why no model can be built from it.
    - **Progress.** With no history at all there are candidates, and there is no end to them.
    - **Parallel trials.** A running trial has no accuracy, and a proposal made beside it is another recipe wherever the space has one.
    - **Lost trials.** A trial that failed or lost its worker says nothing about its recipe: it is known, and otherwise ignored. Trials
      that a pruner stopped may be learned from or be ignored in the same way; each sampler says which.
    """

    def __init__(self, context: SamplerContext) -> None: ...

    def candidates(self, request: SamplingRequest) -> Iterator[Proposal]:
        """Proposals without end, the preferred one first. The search takes the first that can be trained and is not known."""
        ...
