"""What a search costs: device-hours, disk, and with a price, money; what it has cost in the end."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from autoslim.core.job import Resources, SearchJob
from autoslim.core.record import Record
from autoslim.core.result import TrialResult
from autoslim.store import Store, StoredJob

_JUDGING = 15.0
_FORMS = 14.0
_SPEED = {"eager": 9.0, "compiled": 45.0, "onnxruntime": 9.0}
"""Seconds of making a model's forms, and of measuring its speed in each mode, most of them fixed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost(Record):
    """`seconds` is wall time, `device` GPU or CPU, `device_hours` for how long devices were taken, `bytes` what lies in the output folder.

    `price` is that of a device for an hour, and `money` in the same currency; None without a price.
    """

    seconds: float
    device: str
    device_hours: float
    bytes: int
    price: float | None = None

    @property
    def money(self) -> float | None:
        return None if self.price is None else self.price * self.device_hours

    @property
    def told(self) -> str:
        """`0.127 GPU hours, 0.32 at 2.5 an hour; 0.41 GB`."""
        money = "" if self.money is None else f", {self.money:.2f} at {self.price:g} an hour"
        return f"{self.device_hours:.3g} {self.device} hours{money}; {self.bytes / 1e9:.2g} GB"


def cost_of(job: SearchJob, *, seconds: float, busy_seconds: float, size: int) -> Cost:
    """`busy_seconds` are those of all trials, one after another, and of what else takes a trial's resources."""
    device, devices = _devices(job.resources or Resources())
    return Cost(seconds=seconds, device=device, device_hours=busy_seconds * devices / 3600, bytes=size, price=job.price_per_hour)


def _devices(resources: Resources) -> tuple[str, float]:
    return ("GPU", resources.gpu) if resources.gpu > 0 else ("CPU", resources.cpu)


def spent_seconds(store: Store, stored: StoredJob) -> float:
    """What the trials took, in all attempts, and adapting the dense model; other work that trials share is within theirs."""
    base = sum(cost.seconds for cost in stored.shared if cost.method == "dense model")
    return base + sum(_seconds(store, stored.job.id, result) for result in store.trials(stored.job.id))


def _seconds(store: Store, job_id: str, result: TrialResult) -> float:
    """Of a trial that failed, up to its last report."""
    if result.duplicate_of is not None:
        return 0.0
    if result.seconds is not None:
        return result.seconds
    return max((report.seconds or 0.0 for report in store.epochs(job_id, result.number)), default=0.0)


def folder_size(folder: Path) -> int:
    """Bytes of all files in it; what vanishes meanwhile has none."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += 0 if path.is_symlink() or not path.is_file() else path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def handing_seconds(job: SearchJob) -> float:
    """Making the forms of the models, measuring their speed, and judging them; what depends on their size left out."""
    return _JUDGING + len(job.budgets) * (_FORMS + sum(_SPEED[mode] for mode in job.speed))
