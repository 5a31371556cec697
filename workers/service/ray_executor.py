"""Drivers as jobs of a Ray cluster, on nodes with the resource for drivers; secrets come from those nodes' environment."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.exceptions import RayError
from ray.job_submission import JobDetails, JobErrorType, JobStatus, JobSubmissionClient

from autoslim.errors import UnavailableError
from workers.service.executor import RESOURCE, Driver, DriverState, Executor
from workers.service.settings import DriverSettings

_log = logging.getLogger(__name__)

# Of the resource, per driver: a node with one unit runs up to a hundred drivers, which only wait for their trials, if its memory allows it.
_RESOURCE_SHARE = 0.01
# Seconds from SIGTERM to SIGKILL when Ray stops a job: the time for the checkpoints.
_STOP_SECONDS = 30
# Without a byte from the cluster, until it counts as away: half of the default lease, in which a claimed job is safe.
_ANSWER_SECONDS = 30.0
# From a driver's end until Ray's job is deleted, since the supervisor reads the list of all that Ray keeps every second. Until then users
# have the driver's page in the dashboard.
_KEPT_SECONDS = 86_400.0
# Old jobs that are deleted in a round: each is a request, and a round must not take long where many have come together.
_MOST_DELETED = 10
# Ray gives up a job that has no node after 15 minutes (RAY_JOB_START_TIMEOUT_SECONDS on the head).
_UNSCHEDULED_ERRORS = (JobErrorType.JOB_SUPERVISOR_ACTOR_START_TIMEOUT, JobErrorType.JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE)


class _JobClient(JobSubmissionClient):  # type: ignore[misc]
    """Ray's client, whose requests end: as it is, it waits for ever for a head that is stopped or cut off from the network."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, **{"timeout": _ANSWER_SECONDS} | options)


class RayJobsExecutor(Executor):
    """`dashboard` is the URL of the cluster's dashboard; Ray finds its token (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH).

    An AUTOSLIM_STORAGE with a password must be in the nodes' environment: everything that is submitted can be read in the dashboard.
    """

    unreachable_reason = "the Ray cluster cannot be reached"

    def __init__(self, settings: DriverSettings, *, dashboard: str, python: str) -> None:
        self._settings, self._dashboard, self._python = settings, dashboard, python
        self._connected: _JobClient | None = None
        self._stopped_at: dict[Driver, float] = {}
        self._unscheduled: set[Driver] = set()
        # Ended long ago and to be deleted, and those whose deletion Ray has refused.
        self._old: set[Driver] = set()
        self._refused: set[Driver] = set()

    def start(self, driver: Driver) -> None:
        environment = self._settings.environment(secrets=False) | {"RAY_JOB_STOP_SECONDS_TIME_S": str(_STOP_SECONDS)}
        job = {
            "entrypoint": shlex.join([self._python, "-m", "workers.service.attempt", driver.job_id, str(driver.attempt)]),
            "submission_id": driver.name,
            "metadata": {"job_name": driver.job_id, "attempt": str(driver.attempt)},
            "runtime_env": {"env_vars": environment},
            "entrypoint_resources": {RESOURCE: _RESOURCE_SHARE},
        }
        with self._client() as client:
            try:
                client.submit_job(**job)
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise
                # One that lives is this driver: the response to an earlier try was lost. One that has ended is of another history of the
                # job, which a service forgets that is restored from a back-up while the cluster remembers.
                if not driver_state(client.get_job_info(driver.name)).alive:
                    client.delete_job(driver.name)
                    client.submit_job(**job)

    def list_drivers(self) -> dict[Driver, DriverState]:
        with self._client() as client:
            listed = {Driver.parse(details.submission_id or ""): details for details in client.list_jobs()}
        found = {driver: details for driver, details in listed.items() if driver is not None}
        states = {driver: driver_state(details) for driver, details in found.items()}
        self._unscheduled = {driver for driver, state in states.items() if state is DriverState.NEVER_SCHEDULED}
        self._refused &= found.keys()
        # By the time of day: Ray tells no other, and clocks of machines differ by much less than the time for which jobs are kept.
        oldest = 1000 * (time.time() - _KEPT_SECONDS)
        ended = [driver for driver, state in states.items() if state is DriverState.ENDED and driver not in self._refused]
        old = sorted((end, driver) for driver in ended if (end := found[driver].end_time) is not None and end < oldest)
        self._old = {driver for _, driver in old[:_MOST_DELETED]}
        return states

    def stop(self, driver: Driver) -> None:
        """Asks once per grace period: Ray itself kills a job that does not end in time."""
        if time.monotonic() - self._stopped_at.get(driver, -1e9) < 2 * _STOP_SECONDS:
            return
        self._stopped_at[driver] = time.monotonic()
        with self._client() as client:
            client.stop_job(driver.name)

    def delete_record(self, driver: Driver) -> None:
        """Ray keeps its job for a day after the end, except one that never ran: a job may wait for a node for days."""
        self._stopped_at.pop(driver, None)
        if driver in self._unscheduled:
            self._unscheduled.discard(driver)
            with self._client() as client:
                client.delete_job(driver.name)
        elif driver in self._old:
            self._old.discard(driver)
            with self._client() as client:
                try:
                    client.delete_job(driver.name)
                except RuntimeError as error:
                    # Jobs run all the same, and need the rest of the round.
                    self._refused.add(driver)
                    _log.warning("Ray does not delete its job of driver %s: %s", driver.name, str(error).strip()[:500])

    def close(self) -> None:
        """Drivers on a cluster outlive the supervisor."""

    @contextmanager
    def _client(self) -> Iterator[Any]:
        """The connection, made again after an error. Raises UnavailableError when the cluster does not answer."""
        try:
            if self._connected is None:
                self._connected = _JobClient(self._dashboard)
            yield self._connected
        except (RuntimeError, OSError, RayError) as error:
            self._connected = None
            raise UnavailableError(f"Ray at {self._dashboard} cannot be used: {str(error).strip()[:500]}") from error


def driver_state(details: JobDetails) -> DriverState:
    if details.status is JobStatus.PENDING:
        return DriverState.PENDING
    if details.status is JobStatus.RUNNING:
        return DriverState.RUNNING
    # Ray keeps the node's id after the driver's end: a driver without one never had a node. The id is missing after other errors, too,
    # such as a broken runtime environment, which no node would mend.
    placed = details.driver_node_id is not None
    unscheduled = details.status is JobStatus.STOPPED or details.error_type in [kind.value for kind in _UNSCHEDULED_ERRORS]
    return DriverState.NEVER_SCHEDULED if unscheduled and not placed else DriverState.ENDED
