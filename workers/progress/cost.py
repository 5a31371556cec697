"""What a search costs: device hours, bytes on disk and, where a price is given, money."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from autoslim.core.figures import format_figure
from autoslim.core.forms import DEFAULT_FORMS
from autoslim.core.job import Resources, SearchJob
from autoslim.core.record import Record
from autoslim.core.result import ADAPTING, HANDING_OVER, TrialResult
from autoslim.storage.mirror import Mirror
from autoslim.store import Store, StoredJob

_EVALUATE_SECONDS = 15.0
_EXPORT_SECONDS = 14.0
_BENCHMARK_SECONDS = {"eager": 9.0, "compiled": 45.0, "onnxruntime": 9.0}
"""Seconds to evaluate all models, to export one and to measure its speed in a mode. Starting processes and compiling is most of it,
whatever the size of the model."""
_FORM_SECONDS = 20.0
"""Seconds to make a form that not every model has, and to measure its file's speed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchCost(Record):
    """`seconds` is wall time, `device` is GPU or CPU, `device_hours` the time that devices are reserved, `bytes` the size of
    the output folder. `price` is that of a device hour, and `money` is in the same currency; None without a price.
    """

    seconds: float
    device: str
    device_hours: float
    bytes: int
    price: float | None = None

    @property
    def money(self) -> float | None:
        return None if self.price is None else self.price * self.device_hours

    def describe(self, digits: int = 3) -> str:
        """`0.127 GPU hours, 0.32 at 2.5 an hour; 0.41 GB`; an estimate's hours have fewer `digits`."""
        money = "" if self.money is None else f", {self.money:.2f} at {self.price:g} an hour"
        return f"{format_figure(self.device_hours, digits)} {self.device} hours{money}; {format_figure(self.bytes / 1e9, 2)} GB"


def cost_of(job: SearchJob, *, seconds: float, busy_seconds: float, size: int) -> SearchCost:
    """`busy_seconds` is the sum over all trials, and over what else reserves a trial's resources."""
    device, devices = devices_of(job)
    hours = busy_seconds * devices / 3600
    return SearchCost(seconds=seconds, device=device, device_hours=hours, bytes=size, price=job.price_per_hour)


def devices_of(job: SearchJob) -> tuple[str, float]:
    """What a trial reserves, and how many of it."""
    resources = job.resources or Resources()
    return ("GPU", resources.gpu) if resources.gpu > 0 else ("CPU", resources.cpu)


def spent_seconds(store: Store, stored: StoredJob) -> float:
    """The seconds of all trials in all attempts, of adapting the dense models and of handing the models over. Other shared work is within
    those of a trial."""
    around = sum(cost.seconds for cost in stored.shared if cost.method in (ADAPTING, HANDING_OVER))
    return around + sum(_seconds(store, stored.job.id, result) for result in store.trials(stored.job.id))


def _seconds(store: Store, job_id: str, result: TrialResult) -> float:
    """Those of a failed trial up to its last report."""
    if result.duplicate_of is not None:
        return 0.0
    if result.seconds is not None:
        return result.seconds
    return max((report.seconds or 0.0 for report in store.epochs(job_id, result.number)), default=0.0)


def folder_size(folder: Path) -> int:
    """The bytes of all files in it. A file that another process deletes meanwhile counts as empty."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += 0 if path.is_symlink() or not path.is_file() else path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def output_size(folder: Path, mirror: Mirror) -> int:
    """The bytes of a search's output: in its store, where it has one."""
    return folder_size(folder) if mirror.uri is None else mirror.size()


def finalize_seconds(job: SearchJob) -> float:
    """Exporting the selected models, measuring their speed and evaluating them, without what depends on their size."""
    more = _FORM_SECONDS * len(set(job.forms) - set(DEFAULT_FORMS))
    return _EVALUATE_SECONDS + len(job.labels) * (_EXPORT_SECONDS + more + sum(_BENCHMARK_SECONDS[mode] for mode in job.speed))
