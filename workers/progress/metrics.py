"""A search in numbers, for Ray's dashboard and Prometheus. Ray puts `ray_` in front of the names; deploy/monitoring has the panels."""

from __future__ import annotations

import collections
import logging
import math
from collections.abc import Callable, Mapping, Sequence

from autoslim.core.job import SearchJob
from autoslim.core.result import BaseFacts, EpochReport, ParetoFront, TrialResult, TrialState
from workers.progress.callbacks import Listener

_log = logging.getLogger(__name__)

JOB = ("job",)
TRIAL = ("job", "trial", "method")

GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "autoslim_trials": ("Trials by state.", (*JOB, "state")),
    "autoslim_trials_waiting": ("Trials that have not begun yet, at most.", JOB),
    "autoslim_best_accuracy": ("Highest validation accuracy within a budget, a share.", (*JOB, "budget")),
    "autoslim_dense_accuracy": ("Validation accuracy of the dense model, a share.", JOB),
    "autoslim_hypervolume": ("Share of the area above chance and left of the dense model that the front covers.", JOB),
    "autoslim_images_per_second": ("Training images a second of a running trial; 0 when it has ended.", TRIAL),
    "autoslim_loader_wait_share": ("Share of the time that the device waits for images; 0 when the trial has ended.", TRIAL),
    "autoslim_trial_accuracy": ("Validation accuracy of a trial so far, a share.", TRIAL),
    "autoslim_trial_epochs": ("Epochs of a trial so far.", TRIAL),
}
"""Description and tags by name. The API has some of them as well, by the same names without `ray_`, from the store."""

Record = Callable[[str, float, Mapping[str, str]], None]


def ray_gauges() -> Record:
    """Records into Ray's metrics. What cannot be recorded costs the picture, never the search."""
    from ray.util.metrics import Gauge

    gauges = {name: Gauge(name, description=text, tag_keys=tags) for name, (text, tags) in GAUGES.items()}

    def record(name: str, value: float, tags: Mapping[str, str]) -> None:
        try:
            gauges[name].set(value, tags=dict(tags))
        except (ValueError, TypeError, RuntimeError) as error:
            _log.warning("the metric %s was not recorded: %s", name, error)

    return record


class SearchMetrics(Listener):
    """`earlier` are the trials of earlier attempts, ended or not."""

    def __init__(
        self, job: SearchJob, *, budgets: Mapping[str, int], facts: BaseFacts, earlier: Sequence[TrialResult], record: Record
    ) -> None:
        self._job, self._budgets, self._facts, self._record = job.id, dict(budgets), facts, record
        self._left = job.trials - len(earlier)
        self._results = {result.number: result for result in earlier if result.state is not TrialState.RUNNING}
        self._running: set[int] = set()
        # Those that an earlier attempt left unfinished are begun again.
        self._left += len(earlier) - len(self._results)
        self._put("autoslim_dense_accuracy", facts.dense_accuracy)
        self._put_search()

    def trial_begins(self, result: TrialResult, target: str) -> None:
        self._running.add(result.number)
        self._left -= 1
        self._put_search()

    def trial_reports(self, result: TrialResult, report: EpochReport) -> None:
        figures = {
            "autoslim_images_per_second": report.metrics.get("images_per_second"),
            "autoslim_loader_wait_share": report.metrics.get("loader_wait"),
            "autoslim_trial_accuracy": report.metrics.get("accuracy"),
            "autoslim_trial_epochs": report.epoch,
        }
        for name, value in figures.items():
            if value is not None:
                self._put(name, value, **_tags(result))

    def trial_ends(self, result: TrialResult, target: str) -> None:
        if result.number in self._running:
            self._running.remove(result.number)
            for name in ("autoslim_images_per_second", "autoslim_loader_wait_share"):
                self._put(name, 0.0, **_tags(result))
        else:
            # It took no training: infeasible, or the same as another.
            self._left -= 1
        if result.accuracy is not None:
            self._put("autoslim_trial_accuracy", result.accuracy, **_tags(result))
        self._results[result.number] = result
        self._put_search()

    def search_ends(self, reason: str, finals: int) -> None:
        self._left = finals
        self._put_search()

    def _put_search(self) -> None:
        states = collections.Counter(result.state for result in self._results.values())
        states[TrialState.RUNNING] = len(self._running)
        for state in TrialState:
            self._put("autoslim_trials", states[state], state=state.value)
        self._put("autoslim_trials_waiting", max(self._left, 0))
        for label, flops in self._budgets.items():
            within = [result.accuracy for result in self._results.values() if _is_of(result, flops)]
            if best := max((accuracy for accuracy in within if accuracy is not None), default=None):
                self._put("autoslim_best_accuracy", best, budget=label)
        front = ParetoFront.of(self._results.values())
        volume = front.hypervolume(dense_flops=self._facts.dense_flops, chance=self._facts.chance)
        self._put("autoslim_hypervolume", volume)

    def _put(self, name: str, value: float, **tags: str) -> None:
        if math.isfinite(value):
            self._record(name, float(value), {"job": self._job, **tags})


def _tags(result: TrialResult) -> dict[str, str]:
    return {"trial": f"{result.number:03d}", "method": result.recipe.method}


def _is_of(result: TrialResult, flops: int) -> bool:
    return result.state is TrialState.COMPLETE and result.recipe.budget == flops
