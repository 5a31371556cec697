"""What the page shows of a search: values and units that the chart, the table and the tooltips have in common."""

from __future__ import annotations

import dataclasses
import functools

from autoslim.core.accuracy_goal import Floor
from autoslim.core.constraints import budget_of_limits
from autoslim.core.job import SearchJob
from autoslim.core.result import BaseFacts, ParetoFront, TrialResult, TrialState
from autoslim.core.score import Score


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchView:
    """`cost` is the horizontal axis of the chart: `flops`, or `latency_ms` as it was predicted for every trial."""

    job: SearchJob
    base: BaseFacts | None
    results: tuple[TrialResult, ...]
    chosen: dict[str, int]
    cost: str = "flops"

    @property
    def score(self) -> Score:
        return self.job.dataset.score

    @property
    def images(self) -> int | None:
        """The validation images that a share is of; None where they are not known, and for a score that is no share."""
        return None if self.base is None or not self.score.is_share else self.base.validation_images

    def score_text(self, value: float | None) -> str:
        """With its interval, where the number of validation images is known."""
        return "" if value is None else self.score.spaced(value, self.images)

    @functools.cached_property
    def methods(self) -> list[str]:
        return sorted({result.recipe.method for result in self.results})

    @functools.cached_property
    def front(self) -> tuple[TrialResult, ...]:
        return ParetoFront.of(self.results, cost=self.cost).results

    @functools.cached_property
    def unit(self) -> tuple[float, str]:
        """The unit of all FLOPs on the page: its size and its prefix."""
        known = [result.flops for result in self.results if result.flops] + [flops for _, flops in self.budgets()]
        dense = [self.base.dense_flops, *(facts.dense_flops for facts in self.base.starts.values())] if self.base else [0]
        most = max([*known, *dense])
        return next(((size, name) for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "K")) if most >= size), (1.0, ""))

    def flops(self, value: int | None) -> str:
        size, name = self.unit
        return "" if value is None else f"{value / size:.4g} {name}".strip()

    @functools.cached_property
    def has_latency(self) -> bool:
        """Whether there is a chart over latency, too."""
        return any(result.latency_ms is not None for result in self.results)

    @property
    def has_starts(self) -> bool:
        """Whether the search starts from several dense models."""
        return bool(self.job.more_models)

    @property
    def is_latency(self) -> bool:
        return self.cost == "latency_ms"

    def cost_of(self, result: TrialResult) -> float | None:
        known: float | None = getattr(result, self.cost)
        return known

    @property
    def dense_cost(self) -> float | None:
        if self.base is None:
            return None
        return self.base.latency_ms if self.is_latency else float(self.base.dense_flops)

    def dense_points(self) -> list[tuple[str, float, float]]:
        """Label, cost and accuracy of each dense model; the only one of a search has no label."""
        if self.base is None or self.dense_cost is None:
            return []
        if self.base.starts and not self.is_latency:
            return [(label, float(facts.dense_flops), facts.dense_accuracy) for label, facts in self.base.starts.items()]
        return [("", self.dense_cost, self.base.dense_accuracy)]

    @property
    def cost_unit(self) -> tuple[float, str]:
        return (1.0, "ms") if self.is_latency else self.unit

    def cost_text(self, value: float | None) -> str:
        size, name = self.cost_unit
        return "" if value is None else f"{value / size:.4g} {name}".strip()

    @property
    def cost_title(self) -> str:
        limits = self.job.limits
        if self.is_latency:
            return f"Predicted latency of a batch of {limits.batch}, {limits.mode} (ms)"
        return f"FLOPs ({f'{self.unit[1]} multiply-accumulates per image'.strip()})"

    def marks(self) -> list[tuple[str, float]]:
        """The budgets, or the limit on the latency, as labels and places on the axis of the cost."""
        if self.is_latency:
            limit = self.job.limits.latency_ms
            return [] if limit is None else [(f"limit {limit:g} ms", limit)]
        return [(label, float(flops)) for label, flops in self.budgets()]

    def budgets(self) -> list[tuple[str, int]]:
        """Labels and multiply-accumulates, cheapest first; shares only once the dense model is measured."""
        known = []
        for budget in self.job.budgets:
            if budget == budget_of_limits(self.job.limits):
                # No FLOPs budget was requested.
                continue
            if budget.flops is not None:
                known.append((budget.label, budget.flops))
            elif budget.share is not None and self.base is not None:
                known.append((budget.label, int(budget.share * self.base.dense_flops)))
        return sorted(known, key=lambda item: item[1])

    @property
    def floor(self) -> Floor | None:
        """The accuracy that the search holds on to; None without one, and before the dense model is measured."""
        return None if self.base is None else self.job.floor(self.base.dense_accuracy)

    def is_shown(self, result: TrialResult) -> bool:
        """Whether the trial is a point of the chart."""
        shown = result.state in (TrialState.COMPLETE, TrialState.STOPPED) and result.duplicate_of is None
        return shown and self.cost_of(result) is not None and result.accuracy is not None

    def far_below(self, result: TrialResult) -> bool:
        """Whether showing it to scale would compress all others; it is drawn on the chart's lower edge."""
        return (result.accuracy or 0.0) < self._floor

    @functools.cached_property
    def _floor(self) -> float:
        values = sorted(result.accuracy or 0.0 for result in self.results if self.is_shown(result))
        if len(values) < 8:
            return 0.0
        usual, best = values[len(values) // 6], values[-1]
        return min([usual - (best - usual), *(result.accuracy or 0.0 for result in self.front)])

    def chosen_results(self) -> list[tuple[str, TrialResult]]:
        """The budget's label and its model; a model that serves several budgets has their labels joined."""
        labels: dict[int, list[str]] = {}
        for label, number in self.chosen.items():
            labels.setdefault(number, []).append(label)
        by_number = {result.number: result for result in self.results}
        return [(", ".join(names), by_number[number]) for number, names in labels.items() if number in by_number]


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"
