"""`Executor`: where drivers run, as processes of this machine or as jobs of a Ray cluster."""

from __future__ import annotations

import dataclasses
import enum
from typing import Protocol

RESOURCE = "autoslim_driver"
"""Ray runs drivers on nodes that have this resource: `ray start --resources '{"autoslim_driver": 1}'`."""

PENDING_REASON = f"waiting for a node with {RESOURCE}"
"""The `reason` of a job whose driver is PENDING."""


class DriverState(enum.Enum):
    """PENDING waits for a node, and NEVER_SCHEDULED has ended without ever having had one: nothing of such a driver has run. ENDED is any
    other end.
    """

    PENDING = enum.auto()
    RUNNING = enum.auto()
    ENDED = enum.auto()
    NEVER_SCHEDULED = enum.auto()

    @property
    def alive(self) -> bool:
        return self in (DriverState.PENDING, DriverState.RUNNING)


@dataclasses.dataclass(frozen=True, order=True)
class Driver:
    """The process that runs one attempt of a job."""

    job_id: str
    attempt: int

    @property
    def name(self) -> str:
        return f"{self.job_id}-a{self.attempt}"

    @classmethod
    def parse(cls, name: str) -> Driver | None:
        """The driver with this name; None where the name is not a driver's."""
        # A job's id is a ULID, 26 characters; drivers share their list with jobs that other programs submit to Ray.
        job_id, _, attempt = name.rpartition("-a")
        return cls(job_id, int(attempt)) if len(job_id) == 26 and job_id.isalnum() and attempt.isdecimal() else None


class Executor(Protocol):
    """No method waits for a driver, and no state is lost with this process: a new executor finds the drivers of the last one.

    Every method raises UnavailableError when the cluster cannot be reached.
    """

    unreachable_reason: str
    """The reason of jobs that stand still while it cannot be: for their tenants, without addresses."""

    def start(self, driver: Driver) -> None:
        """Does nothing for a driver that was started already."""

    def list_drivers(self) -> dict[Driver, DriverState]:
        """All known drivers."""

    def stop(self, driver: Driver) -> None:
        """Requests that it ends. The first call asks, a call after the grace period kills."""

    def delete_record(self, driver: Driver) -> None:
        """Drops the record of a driver that has ended."""

    def close(self) -> None:
        """Called when the supervisor ends."""
