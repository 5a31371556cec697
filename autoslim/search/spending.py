"""`SpendingLimit`: the most time and money that a whole search may take, over all of its attempts."""

from __future__ import annotations

import dataclasses

from autoslim.core.duration import format_duration
from autoslim.core.job import SearchJob
from autoslim.core.record import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpendingLimit(Record):
    """`seconds` of wall time, `device_seconds` of all devices together, as `SearchCost` counts them. None is no limit.

    Unlike `StoppingLimits` this includes adapting the dense model, and handing the models over.
    """

    seconds: float | None = None
    device_seconds: float | None = None

    @property
    def given(self) -> bool:
        return self.seconds is not None or self.device_seconds is not None

    def reached(self, seconds: float, device_seconds: float) -> bool:
        """Whether so much is too much."""
        over_time = self.seconds is not None and seconds > self.seconds
        return over_time or (self.device_seconds is not None and device_seconds > self.device_seconds)


def spending_limit(job: SearchJob) -> SpendingLimit:
    cost = None if job.max_cost is None or not job.price_per_hour else 3600 * job.max_cost / job.price_per_hour
    return SpendingLimit(seconds=None if job.max_hours is None else 3600 * job.max_hours, device_seconds=cost)


def limit_flags(job: SearchJob) -> str:
    """The limits as the user gives them, and how long hours are in the words of all other times: `--max-hours 0.25 (15m00s)`."""
    flags = []
    if job.max_hours is not None:
        flags.append(f"--max-hours {job.max_hours:g} ({format_duration(3600 * job.max_hours)})")
    if job.max_cost is not None:
        flags.append(f"--max-cost {job.max_cost:g}")
    return " ".join(flags)
