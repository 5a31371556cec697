"""`DryRun`: what a search is going to take on this machine, before anything is trained: `autoslim plan`.

The work comes from the job (`autoslim.search.estimate`), its speed from some training steps on this machine (`throughput`). The constants
are fitted to searches on two CPU cores; `benchmarks/cost_estimate.py` compares estimates with the searches that follow.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Collection, Mapping, Sequence

from autoslim.core.job import SearchJob
from autoslim.core.record import Record
from autoslim.core.shape import ViTShape
from autoslim.data.decode import storage_size
from autoslim.methods import METHODS, Method
from autoslim.models import DenseModel
from autoslim.search import DenseCost, Estimate, Workload, estimate_work, expected_work
from autoslim.search.spending import spending_limit
from workers.estimate.throughput import Throughput, mean_throughput
from workers.progress.cost import SearchCost, cost_of, devices_of, finalize_seconds, folder_size
from workers.search.prepare import PreparedSearch, flops_of
from workers.search.resources import trial_ranks
from workers.search.spending_guard import reserved_seconds

_START_SECONDS = 27.0
"""Until Ray and its first workers are ready."""
_CPU_OVERHEAD = 1.3
"""Where trials run on CPUs, Ray and the driver compute on the same ones."""
_TRIAL_SECONDS = 1.0
"""A trial's time that does not depend on its images: building the model, counting its FLOPs three times, writing it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DryRun(Record):
    """`parts` are seconds of wall time by the search's steps; `cost` is that of all of them. `reserved` are the seconds that a limit keeps
    for the end: more than the expected ones of `finalizing`."""

    estimate: Estimate
    cost: SearchCost
    parts: dict[str, float]
    reserved: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Seconds:
    """Seconds of one trial's resources, as if one trial ran at a time."""

    adapting: float
    trials: float
    refinements: float
    evaluating: float


def dry_run(
    prepared: PreparedSearch,
    throughputs: Mapping[str, Throughput],
    *,
    slots: int,
    reused: Collection[str] = (),
    adapted: Collection[str] = (),
) -> DryRun:
    """With `slots` trials at a time. An upper bound where time or a plateau ends the search.

    `throughputs` are those of the starts, by label. `reused` are labels of budgets that an earlier search has a model for, `adapted` those
    of the starts whose dense model is reused as well.
    """
    # No earlier model answers a goal: the search looks for a cheaper one.
    budgets = tuple(budget for budget in prepared.job.budgets if budget.label not in reused)
    job = prepared.job.replace(budgets=budgets)
    found = [prepared.starts[label] for label in prepared.starts if label in adapted]
    adapts = [
        dense for dense in (prepared.dense, *prepared.others) if prepared.adapts(dense) and not any(dense is one for one in found)
    ]
    workload = expected_work(job)
    busy = _busy_seconds(prepared, throughputs, workload, adapts=adapts)
    parts = {
        "starting": _START_SECONDS,
        "dense model": busy.adapting,
        # Fewer trials than slots leave slots empty.
        "trials": busy.trials / min(slots, max(1, workload.trials)),
        "refinement": busy.refinements / min(slots, max(1, workload.refinements)),
        "finalizing": finalize_seconds(prepared.job) + busy.evaluating,
    }
    reserved = reserved_seconds(prepared.job, busy.evaluating)
    share = _share_within_limits(prepared.job, parts, busy, reserved)
    parts |= {name: share * parts[name] for name in ("trials", "refinement")}
    workload = _scaled(workload, share)
    device_seconds = busy.adapting + share * (busy.trials + busy.refinements) + parts["finalizing"]
    estimate = _estimate(prepared, workload, adapts=adapts)
    size = _image_bytes(prepared) + estimate.disk.kept
    cost = cost_of(prepared.job, seconds=sum(parts.values()), busy_seconds=device_seconds, size=size)
    return DryRun(estimate=estimate, cost=cost, parts=parts, reserved=reserved)


def _busy_seconds(
    prepared: PreparedSearch, throughputs: Mapping[str, Throughput], workload: Workload, *, adapts: Sequence[DenseModel]
) -> _Seconds:
    job, report = prepared.job, prepared.dataset.report
    throughput = mean_throughput(list(throughputs.values()))
    adapting = sum(_adapting_seconds(prepared, throughputs, dense) for dense in adapts)
    epoch = _epoch_seconds(prepared, throughput)
    overhead = _CPU_OVERHEAD if job.resources is None or job.resources.gpu == 0 else 1.0
    # The test images are seen twice a budget: by the slimmed model, and by the dense one that it is compared with.
    evaluating = 2 * len(job.labels) * report.test.images * throughput.evaluate
    return _Seconds(
        adapting=overhead * adapting,
        trials=workload.trials * _TRIAL_SECONDS + workload.epochs * overhead * epoch,
        refinements=workload.refinements * _TRIAL_SECONDS + workload.refinement_epochs * overhead * epoch,
        evaluating=evaluating,
    )


def _adapting_seconds(prepared: PreparedSearch, throughputs: Mapping[str, Throughput], dense: DenseModel) -> float:
    job, report = prepared.job, prepared.dataset.report
    label = next((label for label, start in prepared.starts.items() if start is dense), next(iter(prepared.starts)))
    own = throughputs[label]
    # Starts are measured. A teacher that is none of them takes as long for a multiply-accumulate as the first one.
    scale = flops_of(dense) / flops_of(prepared.starts[label])
    return scale * job.base.epochs * (report.train.images * own.base + report.validation.images * own.evaluate)


def _epoch_seconds(prepared: PreparedSearch, throughput: Throughput) -> float:
    """Of a trial, on average over the starts and their chains: first the method's own training of the whole model, then finetuning of the
    pruned one."""
    report, units = prepared.dataset.report, prepared.proposer.space.units
    shares = [
        _own_share([METHODS[name] for name in units[label]], start.builder.shape)
        for start in prepared.proposer.by_model.values()
        for label in start.feasibility
    ]
    own = statistics.fmean(shares) if shares else 0.0
    # The GPUs of a trial share each batch; one of them evaluates.
    train = report.train.images * (own * throughput.train + (1 - own) * throughput.finetune) / trial_ranks(prepared.job)
    # Every epoch of finetuning is evaluated, and each trial once after pruning and once at its end.
    evaluations = 1 - own + 2 / prepared.job.training.epochs
    return train + evaluations * report.validation.images * throughput.evaluate


def _own_share(chain: Sequence[Method], shape: ViTShape) -> float:
    """The share of a trial's epochs before its last pruning: each step trains its share of what the steps before it have left."""
    return 1 - math.prod(1 - method.train_share(method.repair(shape, {})) for method in chain)


def _share_within_limits(job: SearchJob, parts: dict[str, float], busy: _Seconds, reserved: float) -> float:
    """The share of all trials that the job's limits leave room for; 1 without a limit, 0 where they leave none."""
    trials, limit = parts["trials"] + parts["refinement"], spending_limit(job)
    shares = [1.0 if job.max_seconds is None else job.max_seconds / max(trials, job.max_seconds)]
    if limit.seconds is not None:
        shares.append(_room(limit.seconds - parts["starting"] - parts["dense model"] - reserved, trials))
    if limit.device_seconds is not None:
        left = limit.device_seconds / devices_of(job)[1] - busy.adapting - reserved
        shares.append(_room(left, busy.trials + busy.refinements))
    return min(shares)


def _room(left: float, wanted: float) -> float:
    return max(0.0, left) / max(wanted, left, 1e-9)


def _scaled(workload: Workload, share: float) -> Workload:
    if share == 1.0:
        return workload
    trials = math.ceil(share * workload.trials)
    return workload.replace(trials=trials, epochs=share * workload.epochs, refinement_epochs=share * workload.refinement_epochs)


def _estimate(prepared: PreparedSearch, workload: Workload, *, adapts: Sequence[DenseModel]) -> Estimate:
    adapted = {id(dense) for dense in adapts}
    return estimate_work(
        prepared.job,
        workload,
        train_images=prepared.dataset.report.train.images,
        dense_flops=prepared.dense_flops,
        budgets=prepared.expected_budgets,
        parameters=prepared.dense.parameters,
        adapts=id(prepared.dense) in adapted,
        others=[
            DenseCost(flops=flops_of(dense), parameters=dense.parameters, adapts=id(dense) in adapted)
            for dense in prepared.others
        ],
    )


def _image_bytes(prepared: PreparedSearch) -> int:
    """The encoded images, and where they may be shared decoded, those too: 3 bytes a pixel."""
    report, preprocessing = prepared.dataset.report, prepared.dense.preprocessing
    height, width = storage_size(prepared.dense.shape.image_size, preprocessing.crop_pct)
    decoded = 3 * height * width * sum(getattr(report, split).images for split in ("train", "validation", "test"))
    return folder_size(prepared.dataset.path) + (decoded if decoded <= report.decoded_limit else 0)
