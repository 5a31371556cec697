"""`StartFeasibility`: what the chains of a space can make of one dense model."""

from __future__ import annotations

import dataclasses
import functools

from autoslim.core.budget import format_flops
from autoslim.core.recipe import Step, title_of
from autoslim.core.result import Target
from autoslim.errors import UnsupportedModelError
from autoslim.methods.chain import evaluate_chain
from autoslim.search.feasibility import Feasibility, feasibility
from autoslim.search.recipe_builder import RecipeBuilder
from autoslim.search.space.space import Chain
from autoslim.search.start import Start


@dataclasses.dataclass(frozen=True)
class StartFeasibility:
    """`builder` is that of one start; `is_only` says that the search has no other."""

    builder: RecipeBuilder
    is_only: bool

    @functools.cached_property
    def start(self) -> Start:
        return Start(label=self.builder.model, shape=self.builder.shape)

    def named(self, text: str) -> str:
        """With the start's label where there are several."""
        return title_of(text, self.builder.model)

    @functools.cached_property
    def left_out(self) -> dict[str, str]:
        """Chains of the space, by label, that cannot slim this model, each with the reason."""
        reasons = {}
        for label, chain in self.builder.space.units_of(self.builder.methods).items():
            try:
                self._check_chain(chain)
            except UnsupportedModelError as error:
                reasons[label] = str(error)
        return reasons

    def _check_chain(self, chain: Chain) -> None:
        builder = self.builder
        for name in chain:
            builder.methods[name].check(builder.shape)
        if len(chain) > 1:
            # Whether a step can follow another one is known to its plan alone.
            usual = [Step(method=name, knobs=builder.methods[name].before_others) for name in chain[:-1]]
            usual.append(Step(method=chain[-1], knobs={}))
            evaluate_chain(builder.methods, builder.shape, builder.dense_plan, usual)

    @functools.cached_property
    def feasibility(self) -> dict[str, Feasibility]:
        """By the label of a chain: what its cheapest and its costliest recipe cost."""
        builder = self.builder
        constraints = {
            label: builder.constraints(label) for label in builder.space.units_of(builder.methods) if label not in self.left_out
        }
        return feasibility(builder.space, builder.shape, builder.dense_plan, builder.methods, constraints)

    def chains_for(self, target: str) -> list[str]:
        """The labels of the chains that can be solved onto the target, methods alone in the registry's order first."""
        # A method without any recipe in the space would only give infeasible trials.
        drawn = [name for name, found in self.feasibility.items() if found.cheapest is not None]
        if target == Target.FREE:
            return drawn
        flops = self.builder.budgets[target]
        if not self.is_only and not self.start.is_above(flops):
            return []
        return [name for name in drawn if self.feasibility[name].reaches(flops, self.builder.limits)]

    def why_not(self, target: str) -> str | None:
        """Why no recipe for the budget `target` starts from this model; None where some do."""
        if self.chains_for(target):
            return None
        flops = self.builder.budgets[target]
        if not self.start.is_above(flops):
            dense = format_flops(self.start.dense_flops)
            return f"its dense model has {dense} multiply-accumulates and is within {target} already"
        least = [found.cheapest.flops for found in self.feasibility.values() if found.cheapest is not None]
        if least and min(least) <= flops:
            return f"nothing in the space keeps {self.builder.limits.flags} together with {target}"
        reached = f"; the least is {format_flops(min(least))}" if least else ""
        return f"nothing in the space slims it to {target}, {format_flops(flops)} multiply-accumulates{reached}"
