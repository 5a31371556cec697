"""`/metrics`: jobs and trials from the store at the time of the scrape, requests from this process."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from autoslim.store import Queue, QueueState, Store

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4
# Seconds: fine where reads of the store fall, coarse up to a plan.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0)
_RUNNING = [state for state in QueueState if state.running]
# Every running job has series of its own; this bounds the size of a scrape.
_MAX_JOBS = 200


class RequestMetrics:
    """Request latencies of one app. The labels are bounded: route templates, not paths."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.latency = Histogram(
            "autoslim_request_seconds",
            "Time to the first byte of the response.",
            ("method", "route", "status"),
            buckets=_BUCKETS,
            registry=self.registry,
        )


def render_metrics(requests: RequestMetrics, *, queue: Queue, store: Store, open_streams: int, tenant: str | None) -> bytes:
    """Prometheus' text format; `tenant` limits the jobs to one tenant's, None gives all jobs.

    Raises:
        UnavailableError: when the store cannot be reached.
    """
    registry = CollectorRegistry()
    registry.register(_JobCollector(queue, store, open_streams, tenant))
    return generate_latest(requests.registry) + generate_latest(registry)


class _JobCollector:
    """Reads the store when it is collected; one collector serves one scrape."""

    def __init__(self, queue: Queue, store: Store, open_streams: int, tenant: str | None) -> None:
        self._queue, self._store, self._open_streams, self._tenant = queue, store, open_streams, tenant

    def collect(self) -> Iterator[Metric]:
        counts = self._queue.counts(self._tenant)
        jobs = GaugeMetricFamily("autoslim_jobs", "Jobs by state.", labels=["state"])
        for state, count in counts.items():
            jobs.add_metric([state], count)
        yield jobs
        yield GaugeMetricFamily("autoslim_queue_length", "Queued jobs.", value=counts[QueueState.QUEUED])
        oldest = self._queue.oldest_queued_seconds(self._tenant)
        yield GaugeMetricFamily("autoslim_queue_oldest_seconds", "Age of the oldest queued job.", value=oldest or 0.0)
        yield GaugeMetricFamily("autoslim_event_streams", "Open event streams.", value=self._open_streams)
        yield from self._running()

    def _running(self) -> Iterator[Metric]:
        """Running jobs only: series per job would otherwise grow without bound."""
        jobs = self._queue.list(self._tenant, states=_RUNNING, limit=_MAX_JOBS)
        progress = self._store.progress([job.id for job in jobs])
        trials = GaugeMetricFamily("autoslim_trials", "Trials of running jobs by state.", labels=["job", "state"])
        best = GaugeMetricFamily(
            "autoslim_best_accuracy",
            "Validation accuracy of the best trial within a budget; of a search for features their agreement.",
            labels=["job", "budget"],
        )
        volume = GaugeMetricFamily("autoslim_hypervolume", "Share of the area that the front covers.", labels=["job"])
        attempts = CounterMetricFamily("autoslim_job_attempts", "Drivers started for a running job.", labels=["job"])
        for job in jobs:
            attempts.add_metric([job.id], job.attempt)
            if (found := progress.get(job.id)) is None:
                continue
            for state, count in found.states.items():
                trials.add_metric([job.id, state], count)
            for label, result in found.best.items():
                best.add_metric([job.id, label], result.accuracy or 0.0)
            if found.hypervolume is not None:
                volume.add_metric([job.id], found.hypervolume)
        yield from (trials, best, volume, attempts)
