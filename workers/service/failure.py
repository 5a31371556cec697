"""Classifies the error that ended a search: the job is paused or has failed.

A job is paused for a cause that ends by itself or that the operator removes: a full disk, a database or a cluster that is down. It
resumes where it was. For everything else it fails, with a class, a sentence and the command that helps.
"""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Mapping

from autoslim.config import JobSpec
from autoslim.core.causes import cause_chain
from autoslim.core.files import is_disk_full
from autoslim.core.result import ErrorClass, Phase
from autoslim.errors import (
    BudgetError,
    DatasetError,
    DivergedError,
    InfeasibleError,
    OutputError,
    RequestError,
    TrialsFailedError,
    UnavailableError,
    first_line,
)
from autoslim.store import Failure, FailureClass
from workers.ray_errors import is_cluster_failure

# Errors of a disk or a network file system, not of a path that is wrong.
_STORAGE_ERRORS = (errno.EIO, errno.EROFS, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.ENODEV)


@dataclasses.dataclass(frozen=True)
class Pause:
    """The job is to be resumed later; `reason` is for people."""

    failure_class: FailureClass
    reason: str


def diagnose(error: BaseException, *, job_id: str, spec: JobSpec | None = None) -> Failure | Pause:
    """`spec` refines the next command; None where it could not be read."""
    # From the most specific cause to the most general one: a full disk may end a task, a Ray job and a transaction at the same time.
    chain = list(cause_chain(error))
    if is_disk_full(error):
        # The error's own sentence names the operator's folder and the flag that continues a search without the service.
        return Pause(FailureClass.STORAGE, "the disk is full; the job continues by itself when there is room")
    if any(isinstance(link, OutputError) or _is_storage(link) for link in chain):
        return Pause(FailureClass.STORAGE, _sentence(error))
    if any(isinstance(link, UnavailableError) for link in chain):
        return Pause(FailureClass.INFRA, _sentence(error))
    kind = _kind(chain)
    if kind is FailureClass.INFRA:
        return Pause(kind, f"part of the cluster was lost: {_sentence(error)}")
    message = _sentence(error)
    dense = f"the {Phase.ADAPT} phase" in message
    return Failure(failure_class=kind, message=message, next=_next(kind, job_id, spec, dense=dense))


def no_model(why_missing: Mapping[str, str], *, job_id: str, spec: JobSpec) -> Failure:
    """For a search that ended without a model; `why_missing` is by budget, or the goal."""
    message = "; ".join(f"{label}: {why}" for label, why in why_missing.items())
    return Failure(failure_class=FailureClass.INFEASIBLE, message=message, next=_next(FailureClass.INFEASIBLE, job_id, spec))


def _kind(chain: list[BaseException]) -> FailureClass:
    for link in chain:
        name = link.error_class if isinstance(link, TrialsFailedError) else type(link).__name__
        if name in (ErrorClass.OUT_OF_MEMORY, "MemoryError"):
            return FailureClass.OOM
        if isinstance(link, DivergedError) or name == ErrorClass.DIVERGED:
            return FailureClass.DIVERGED
        if isinstance(link, BudgetError | InfeasibleError):
            return FailureClass.INFEASIBLE
        if isinstance(link, DatasetError) or name == "DatasetError":
            return FailureClass.DATA
        if isinstance(link, RequestError):
            return FailureClass.REQUEST
        if is_cluster_failure(link) or name == ErrorClass.WORKER_LOST:
            return FailureClass.INFRA
    return FailureClass.BUG


def _next(kind: FailureClass, job_id: str, spec: JobSpec | None, *, dense: bool = False) -> str:
    """`dense` says that the error is of the dense model's training, which has a learning rate of its own."""
    if spec is not None and kind is FailureClass.OOM:
        return f"autoslim submit job.yaml --batch-size {max(1, spec.batch_size // 2)}"
    if spec is not None and kind is FailureClass.DIVERGED:
        if dense:
            return f"autoslim submit job.yaml --base-lr {(spec.base_lr or spec.lr) / 10:g}"
        return f"autoslim submit job.yaml --lr {spec.lr / 10:g}"
    if kind in (FailureClass.REQUEST, FailureClass.INFEASIBLE):
        return "autoslim plan job.yaml"
    return f"autoslim logs {job_id}"


def _is_storage(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in _STORAGE_ERRORS


def _sentence(error: BaseException) -> str:
    return first_line(error) if isinstance(error, Exception) else type(error).__name__
