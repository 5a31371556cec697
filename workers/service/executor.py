"""Where drivers run: as processes of this machine, or as jobs of a Ray cluster."""

from __future__ import annotations

import dataclasses
from typing import Protocol

RESOURCE = "autoslim_driver"
"""A Ray node takes drivers when it was started with some of this resource: `ray start --resources '{"autoslim_driver": 1}'`."""


@dataclasses.dataclass(frozen=True, order=True)
class Driver:
    """The process that drives one attempt at a job."""

    job_id: str
    attempt: int

    @property
    def name(self) -> str:
        return f"{self.job_id}-a{self.attempt}"

    @classmethod
    def of(cls, name: str) -> Driver | None:
        """None for what is not a driver's name."""
        job_id, _, attempt = name.rpartition("-a")
        return cls(job_id, int(attempt)) if len(job_id) == 26 and job_id.isalnum() and attempt.isdecimal() else None


class Executor(Protocol):
    """Every call returns soon. It remembers nothing that is lost with its own process.

    All of it raises ClusterError when the cluster cannot be reached.
    """

    def start(self, driver: Driver) -> None:
        """Does nothing where it has been started already."""

    def list_drivers(self) -> dict[Driver, bool]:
        """Whether each driver that is known here still lives; one that was never seen is not there."""

    def stop(self, driver: Driver) -> None:
        """Asks it to end, and makes it when it was asked before and has had its time."""

    def forget(self, driver: Driver) -> None:
        """It has ended and its end was noted."""

    def close(self) -> None:
        """The supervisor ends."""
