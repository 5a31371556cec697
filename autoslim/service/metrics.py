"""`/metrics`: jobs and trials from the store, at the moment they are asked for; requests from this process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from autoslim.store import QueueState

if TYPE_CHECKING:
    from autoslim.service.app_state import AppState

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0)
_RUNNING = [state for state in QueueState if state.running]
_MOST = 200
"""Running jobs that have series of their own."""


class RequestMetrics:
    """Of one app. The labels are bounded: routes, not paths."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.latency = Histogram(
            "autoslim_request_seconds",
            "Time to the first byte of an answer.",
            ("method", "route", "status"),
            buckets=_BUCKETS,
            registry=self.registry,
        )


def exposition(shared: AppState, tenant: str | None) -> bytes:
    """`tenant` of None: everybody's jobs."""
    registry = CollectorRegistry()
    registry.register(_Jobs(shared, tenant))
    return generate_latest(shared.metrics.registry) + generate_latest(registry)


class _Jobs:
    """A collector that is used once."""

    def __init__(self, shared: AppState, tenant: str | None) -> None:
        self._shared, self._tenant = shared, tenant

    def collect(self) -> Iterator[Metric]:
        queue = self._shared.queue
        counts = queue.counts(self._tenant)
        jobs = GaugeMetricFamily("autoslim_jobs", "Jobs by state.", labels=["state"])
        for state, count in counts.items():
            jobs.add_metric([state], count)
        yield jobs
        yield GaugeMetricFamily("autoslim_queue_length", "Jobs that wait to be begun.", value=counts[QueueState.QUEUED])
        oldest = queue.oldest_queued_seconds(self._tenant)
        yield GaugeMetricFamily("autoslim_queue_oldest_seconds", "Age of the oldest queued job.", value=oldest or 0.0)
        yield GaugeMetricFamily("autoslim_event_streams", "Open event streams.", value=self._shared.hub.open)
        yield from self._running()

    def _running(self) -> Iterator[Metric]:
        """Of running jobs only, so that the series do not grow for ever."""
        jobs = self._shared.queue.list(self._tenant, states=_RUNNING, limit=_MOST)
        progress = self._shared.store.progress([job.id for job in jobs])
        trials = GaugeMetricFamily("autoslim_trials", "Trials of running jobs by state.", labels=["job", "state"])
        best = GaugeMetricFamily("autoslim_best_accuracy", "Best validation accuracy within a budget.", labels=["job", "budget"])
        volume = GaugeMetricFamily("autoslim_hypervolume", "Share of the area that the front covers.", labels=["job"])
        attempts = CounterMetricFamily("autoslim_job_attempts", "Drivers that a running job has had.", labels=["job"])
        for job in jobs:
            attempts.add_metric([job.id], job.attempt)
            if (found := progress.get(job.id)) is None:
                continue
            for state, count in found.states.items():
                trials.add_metric([job.id, state], count)
            for label, accuracy in found.best.items():
                best.add_metric([job.id, label], accuracy)
            if found.hypervolume is not None:
                volume.add_metric([job.id], found.hypervolume)
        yield from (trials, best, volume, attempts)
