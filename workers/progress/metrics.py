"""The metrics of a search for Ray's dashboard and Prometheus. Ray prefixes the names with `ray_`; deploy/monitoring has the panels."""

from __future__ import annotations

import collections
import logging
import math
from collections.abc import Callable, Mapping

from autoslim.core.result import EpochReport, Origin, ParetoFront, TrialResult, TrialState
from workers.progress.callbacks import SearchCallback, SearchInfo

_log = logging.getLogger(__name__)

JOB = ("job",)
TRIAL = ("job", "trial", "method")
SCORE = ("score",)
"""What a search compares its trials by (`Score.name`), where a metric is called accuracy."""

GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "autoslim_trials": ("Trials by state.", (*JOB, "state")),
    "autoslim_trials_waiting": ("Trials that have not started yet, at most.", JOB),
    "autoslim_best_accuracy": (
        "Validation accuracy of the best trial within a budget, a share; of a search for features their agreement.",
        (*JOB, "budget", *SCORE),
    ),
    "autoslim_dense_accuracy": (
        "Validation accuracy of the dense model, a share; 1 in a search for features.",
        (*JOB, *SCORE),
    ),
    "autoslim_hypervolume": ("Share of the area above chance and left of the dense model that the front covers.", JOB),
    "autoslim_images_per_second": ("Training images a second of a running trial; 0 when it has ended.", TRIAL),
    "autoslim_loader_wait_share": ("Share of the time that the device waits for images; 0 when the trial has ended.", TRIAL),
    "autoslim_trial_accuracy": (
        "Validation accuracy of a trial so far, a share; of a search for features its agreement.",
        (*TRIAL, *SCORE),
    ),
    "autoslim_trial_epochs": ("Epochs of a trial so far.", TRIAL),
}
"""Description and tags by name. The service exposes some of them from the store, under the same names without `ray_` and without the tag
`score`."""

SetGauge = Callable[[str, float, Mapping[str, str]], None]


def ray_gauges() -> SetGauge:
    """Sets Ray's metrics. A value that Ray refuses is logged; the search does not fail for it."""
    from ray.util.metrics import Gauge

    gauges = {name: Gauge(name, description=text, tag_keys=tags) for name, (text, tags) in GAUGES.items()}

    def set_gauge(name: str, value: float, tags: Mapping[str, str]) -> None:
        try:
            gauges[name].set(value, tags=dict(tags))
        except (ValueError, TypeError, RuntimeError) as error:
            _log.warning("the metric %s was not set: %s", name, error)

    return set_gauge


class SearchMetrics(SearchCallback):
    def __init__(self, set_gauge: SetGauge) -> None:
        """`set_gauge` takes a metric's name, value and tags."""
        self._set_gauge = set_gauge
        self._search: SearchInfo | None = None
        self._results: dict[int, TrialResult] = {}
        self._running: set[int] = set()
        self._waiting = 0

    def on_search_start(self, search: SearchInfo) -> None:
        self._search = search
        self._results = {result.number: result for result in search.results if result.state is not TrialState.RUNNING}
        # Reused trials are none of the job's own; those that an earlier attempt left running start again.
        own = sum(result.origin is not Origin.REUSED for result in self._results.values())
        self._waiting = search.job.trials - own
        self._put("autoslim_dense_accuracy", search.base.dense_accuracy)
        self._put_search()

    def on_trial_start(self, result: TrialResult, target: str) -> None:
        self._running.add(result.number)
        self._waiting -= 1
        self._put_search()

    def on_epoch_end(self, result: TrialResult, report: EpochReport) -> None:
        figures = {
            "autoslim_images_per_second": report.metrics.get("images_per_second"),
            "autoslim_loader_wait_share": report.metrics.get("loader_wait"),
            "autoslim_trial_accuracy": report.metrics.get("accuracy"),
            "autoslim_trial_epochs": report.epoch,
        }
        for name, value in figures.items():
            if value is not None:
                self._put(name, value, **_tags(result))

    def on_trial_end(self, result: TrialResult, target: str) -> None:
        if result.number in self._running:
            self._running.remove(result.number)
            for name in ("autoslim_images_per_second", "autoslim_loader_wait_share"):
                self._put(name, 0.0, **_tags(result))
        else:
            # It needed no training: it is infeasible, or a duplicate.
            self._waiting -= 1
        if result.accuracy is not None:
            self._put("autoslim_trial_accuracy", result.accuracy, **_tags(result))
        self._results[result.number] = result
        self._put_search()

    def on_search_end(self, reason: str, refinements: int) -> None:
        self._waiting = refinements
        self._put_search()

    def _put_search(self) -> None:
        search = self._search
        if search is None:
            return
        states = collections.Counter(result.state for result in self._results.values())
        states[TrialState.RUNNING] = len(self._running)
        for state in TrialState:
            self._put("autoslim_trials", states[state], state=state.value)
        self._put("autoslim_trials_waiting", max(self._waiting, 0))
        results = list(self._results.values())
        for label, result in search.best(results).items():
            self._put("autoslim_best_accuracy", result.accuracy or 0.0, budget=label)
        volume = ParetoFront.of(results).hypervolume(dense_flops=search.base.front_flops, chance=search.base.chance)
        self._put("autoslim_hypervolume", volume)

    def _put(self, name: str, value: float, **tags: str) -> None:
        if not math.isfinite(value) or self._search is None:
            return
        job = self._search.job
        known = {"job": job.id, "score": job.dataset.score.name, **tags}
        self._set_gauge(name, float(value), {tag: known[tag] for tag in GAUGES[name][1]})


def _tags(result: TrialResult) -> dict[str, str]:
    return {"trial": f"{result.number:03d}", "method": result.recipe.method}
