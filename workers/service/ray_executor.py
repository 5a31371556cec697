"""Drivers as jobs of a Ray cluster, off its head. Their settings come from the environment of the nodes that carry them."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.exceptions import RayError
from ray.job_submission import JobStatus, JobSubmissionClient

from autoslim.errors import ClusterError
from workers.service.executor import RESOURCE, Driver, Executor
from workers.service.settings import DriverSettings

_log = logging.getLogger(__name__)

_SHARE = 0.01
_STOP_WAIT = 30
"""Seconds that Ray leaves a driver to write its checkpoints when it is stopped."""
_LIVING = (JobStatus.PENDING, JobStatus.RUNNING)


class RayJobsExecutor(Executor):
    """`dashboard` is the address of the cluster's dashboard; the token is found as Ray finds it (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH).

    AUTOSLIM_STORAGE has to be in the nodes' environment where it has a password in it: what is submitted can be read in the dashboard.
    """

    def __init__(self, settings: DriverSettings, *, dashboard: str, python: str) -> None:
        self._settings, self._dashboard, self._python = settings, dashboard, python
        self._connected: JobSubmissionClient | None = None
        self._asked: dict[Driver, float] = {}

    def start(self, driver: Driver) -> None:
        environment = self._settings.environment(secrets=False) | {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_WAIT)}
        with self._client() as client:
            try:
                client.submit_job(
                    entrypoint=shlex.join([self._python, "-m", "workers.service.attempt", driver.job_id, str(driver.attempt)]),
                    submission_id=driver.name,
                    metadata={"job_name": driver.job_id, "attempt": str(driver.attempt)},
                    runtime_env={"env_vars": environment},
                    entrypoint_resources={RESOURCE: _SHARE},
                )
            except RuntimeError as error:
                # An answer may have been lost on its way; the id is taken by the driver itself then.
                if "already exists" not in str(error):
                    raise

    def list_drivers(self) -> dict[Driver, bool]:
        with self._client() as client:
            found = {Driver.of(details.submission_id or ""): details.status for details in client.list_jobs()}
        return {driver: status in _LIVING for driver, status in found.items() if driver is not None}

    def stop(self, driver: Driver) -> None:
        """Ray makes it end by itself when its time is over, so that it is asked once."""
        if time.monotonic() - self._asked.get(driver, -1e9) < 2 * _STOP_WAIT:
            return
        self._asked[driver] = time.monotonic()
        with self._client() as client:
            client.stop_job(driver.name)

    def forget(self, driver: Driver) -> None:
        """Ray keeps its jobs' history itself."""
        self._asked.pop(driver, None)

    def close(self) -> None:
        """The drivers are the cluster's and go on."""

    @contextmanager
    def _client(self) -> Iterator[Any]:
        """Raises ClusterError for whatever keeps the cluster from answering."""
        try:
            if self._connected is None:
                self._connected = JobSubmissionClient(self._dashboard)
            yield self._connected
        except (RuntimeError, OSError, RayError) as error:
            self._connected = None
            raise ClusterError(f"Ray at {self._dashboard} cannot be used: {str(error).strip()[:500]}") from error
