"""What a search is going to take, before it has begun: time, device-hours and disk, from the pace of this machine."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Collection

from autoslim.core.record import Record
from autoslim.data.decode import storage_size
from autoslim.methods import METHODS
from autoslim.search import Workload, expected_work
from workers.estimate.throughput import Throughput
from workers.progress.cost import Cost, cost_of, folder_size, handing_seconds
from workers.search.driver import Prepared

STARTING = 27.0
"""Seconds until Ray and its first workers stand."""
_BESIDE = 1.3
"""On a CPU, Ray and the driver take their part of the processors that the trials run on."""
_TRIAL = 1.0
"""Seconds a trial takes besides its images: building, three counts of FLOPs, writing."""
_FRONT = 6
"""Models that stay for the front, besides one a budget."""
_HANDED = 6
"""Copies of the weights of what is handed over: the model, ONNX, torch.export's program, timm's, and MLflow's."""
_LOGGED = 3 * 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate(Record):
    """`parts` are seconds of wall time by what they are for; `expected` what is trained."""

    cost: Cost
    parts: dict[str, float]
    expected: Workload


def estimate(
    prepared: Prepared, throughput: Throughput, *, slots: int, answered: Collection[str] = (), adapted: bool = False
) -> Estimate:
    """`slots` trials at a time; at most this where time or a plateau end the search.

    `answered` are labels of budgets for which an earlier search's model is taken over; with `adapted` its dense model is.
    """
    job, images = prepared.job, prepared.dataset.report.train.images
    expected = expected_work(job.replace(budgets=tuple(budget for budget in job.budgets if budget.label not in answered)))
    base = 0.0
    if not adapted and not prepared.dense.is_ready_for(prepared.dataset.classes):
        base = job.base.epochs * (images * throughput.base + prepared.dataset.report.validation.images * throughput.judge)
    epoch = _epoch_seconds(prepared, throughput)
    if job.resources is None or job.resources.gpu == 0:
        base, epoch = _BESIDE * base, _BESIDE * epoch
    search = expected.trials * _TRIAL + expected.epochs * epoch
    final = expected.finals * _TRIAL + expected.final_epochs * epoch
    handing = handing_seconds(job) + 2 * len(prepared.budgets) * prepared.dataset.report.test.images * throughput.judge
    parts = {
        "starting": STARTING,
        "dense model": base,
        "trials": search / min(slots, max(1, expected.trials)),
        "tuning the best": final / min(slots, max(1, expected.finals)),
        "handing over": handing,
    }
    busy = base + search + final + handing
    if job.max_seconds is not None:
        both = parts["trials"] + parts["tuning the best"]
        shorter = job.max_seconds / max(both, job.max_seconds)
        parts |= {name: shorter * parts[name] for name in ("trials", "tuning the best")}
        busy = base + shorter * (search + final) + handing
        expected = _scaled(expected, shorter)
    cost = cost_of(job, seconds=sum(parts.values()), busy_seconds=busy, size=_disk(prepared, expected))
    return Estimate(cost=cost, parts=parts, expected=expected)


def _scaled(expected: Workload, share: float) -> Workload:
    """What of it there is time for."""
    if share == 1.0:
        return expected
    trials = max(1, round(share * expected.trials))
    return expected.replace(trials=trials, epochs=share * expected.epochs, final_epochs=share * expected.final_epochs)


def _epoch_seconds(prepared: Prepared, throughput: Throughput) -> float:
    """Of a trial: the method's own part on the whole model, then tuning what is left, judged after every epoch."""
    report = prepared.dataset.report
    methods = [METHODS[name] for name in prepared.proposer.feasibility]
    shares = [method.train_share(method.repair(prepared.dense.shape, {})) for method in methods]
    own = statistics.fmean(shares) if shares else 0.0
    train = report.train.images * (own * throughput.train + (1 - own) * throughput.tune)
    # Once after the cut, and once at the end, beside the tuning's own.
    judged = 1 - own + 2 / prepared.job.training.epochs
    return train + judged * report.validation.images * throughput.judge


def _disk(prepared: Prepared, expected: Workload) -> int:
    """What stays in the output folder."""
    report, shape = prepared.dataset.report, prepared.dense.shape
    weights = 4 * sum(p.numel() for p in prepared.dense.module.parameters())
    height, width = storage_size(shape.image_size, prepared.dense.preprocessing.crop_pct)
    decoded = 3 * height * width * sum(getattr(report, split).images for split in ("train", "validation", "test"))
    images = folder_size(prepared.dataset.path) + (decoded if decoded <= report.decoded_limit else 0)
    # Methods that narrow the model leave about as large a share of its weights; those that drop tokens, all.
    each = weights * (1 + math.sqrt(prepared.kept)) / 2
    models = min(expected.trials, _FRONT + len(prepared.budgets)) * each
    return int(images + weights + models + _HANDED * len(prepared.budgets) * each + _LOGGED)
