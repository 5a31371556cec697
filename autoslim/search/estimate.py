"""`Estimate`: what a search computes and writes, on any machine. Nothing is trained for it.

The command line adds the time on its machine (`workers.estimate`); the service's `POST /v1/plans` shows a part of this record.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence

from autoslim.core.job import SearchJob
from autoslim.core.record import Record
from autoslim.search.workload import Workload

_BACKWARD = 2
"""FLOPs of a backward pass by those of the forward pass: one product for the gradient of the inputs, one for that of the weights."""
_TRIAL_STATE = 10
"""Weights' sizes that a running trial writes: the weights, AdamW's two moments, the moving average and the best state, and all five again
in the new checkpoint, which is complete before the old one is deleted."""
_DELIVERED = 5
"""Weights' sizes of a delivered model: safetensors, ONNX, `torch.export`, timm's folder, and the ONNX file in MLflow."""
_DELIVERED_BESIDE = 1_200_000
"""Bytes of a delivered model besides weights: pictures, card and tables, in `models/` and once more in MLflow (measured on the digits)."""
_FRONT = 6
"""Models that a search of some dozens of trials keeps for its front, in addition to one a budget."""
_ASSUMED_SLOTS = 2
"""Trials at a time where the job does not say and no cluster has been asked."""
_TABLES = 3 * 2**20
"""Bytes of the store, the tables and MLflow's rows of a search of some dozens of trials."""
_MARGIN = 50 * 2**20
"""Bytes that are required beyond the peak: logs, the store's journal, and other uses of the file system."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiskUse(Record):
    """Bytes in the output folder besides the images: the most while the search runs, and what stays when it has ended."""

    peak: int
    kept: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate(Record):
    """The work of a search: `training_images` over all trials, `base_training_images` to adapt the dense model to the data, and the
    multiply-accumulates of both.
    """

    workload: Workload
    training_images: int
    base_training_images: int
    multiply_accumulates: float
    disk: DiskUse


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseCost(Record):
    """A dense model beside the first one: its multiply-accumulates, its parameters, and whether it has to be adapted to the data."""

    flops: int
    parameters: int
    adapts: bool = True


def estimate_work(
    job: SearchJob,
    workload: Workload,
    *,
    train_images: int,
    dense_flops: int,
    budgets: Collection[int],
    parameters: int,
    adapts: bool = True,
    others: Sequence[DenseCost] = (),
) -> Estimate:
    """`budgets` and `dense_flops` in multiply-accumulates; `adapts` is false where the dense model fits the data already. `others` are the
    further starts, and a teacher that is none of them."""
    mean_budget = sum(budgets) / len(budgets)
    trained = train_images * (workload.epochs + workload.refinement_epochs)
    dense = (DenseCost(flops=dense_flops, parameters=parameters, adapts=adapts), *others)
    adapting = [train_images * job.base.epochs * model.flops for model in dense if model.adapts]
    # A step of a trial also runs a dense teacher forwards, at most the costliest; a dense model is adapted without one.
    teacher = max(model.flops for model in dense)
    computed = trained * ((1 + _BACKWARD) * mean_budget + teacher) + sum(adapting) * (1 + _BACKWARD)
    return Estimate(
        workload=workload,
        training_images=round(trained),
        base_training_images=round(train_images * job.base.epochs * len(adapting)),
        multiply_accumulates=float(computed),
        disk=disk_use(
            job,
            workload,
            parameters=parameters,
            budget_share=mean_budget / dense_flops,
            others=[model.parameters for model in others],
        ),
    )


def disk_use(job: SearchJob, workload: Workload, *, parameters: int, budget_share: float, others: Sequence[int] = ()) -> DiskUse:
    """From the dense model's `parameters`, those of the `others`, and the mean share of its FLOPs that the budgets leave.

    Every dense model is stored once, and a trial's model is counted as one of the largest.
    """
    bases, dense = 4 * sum((parameters, *others)), 4 * max(parameters, *others, 0)
    budgets, slots = len(job.labels), job.concurrency or _ASSUMED_SLOTS
    # The peak must not be passed, so that it holds a dense-sized model for every trial: in the worst case each is on the front.
    peak = bases + dense * (workload.trials + workload.refinements + _TRIAL_STATE * slots + _DELIVERED * budgets) + _MARGIN
    # Methods that narrow the model leave about the square root of the FLOPs' share of its weights, those that drop tokens all of them.
    slimmed = dense * (1 + math.sqrt(min(1.0, budget_share))) / 2
    models = min(workload.trials, _FRONT + budgets) + _DELIVERED * budgets
    return DiskUse(peak=peak, kept=round(bases + models * slimmed + budgets * _DELIVERED_BESIDE + _TABLES))
