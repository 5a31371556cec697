"""Every kind of error that a driver may meet, and what becomes of its job."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import ray
import torch
from sqlalchemy.exc import ProgrammingError

from autoslim.config import SpecError, read_mapping
from autoslim.config.issues import ValidationIssue
from autoslim.core.files import disk_full_error
from autoslim.errors import (
    BudgetError,
    DatasetError,
    DivergedError,
    JobError,
    OutputError,
    RequestError,
    SpaceError,
    TrialsFailedError,
    UnavailableError,
    UnsupportedModelError,
    WeightsError,
)
from autoslim.store import Failure, FailureClass
from workers.service.failure import Pause, diagnose, no_model

C = FailureClass
SPEC = read_mapping({"model": "deit_tiny_patch16_224", "data": "digits", "flops": "50%", "batch_size": 64, "lr": 0.001})
LOGS, PLAN = "autoslim logs ID", "autoslim plan job.yaml"


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def of_a_task(cause: Exception) -> Exception:
    """As Ray hands over what a task raised on another machine."""
    return ray.exceptions.RayTaskError("work", "Traceback ...", cause).as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "failure_class", "next_command"),
    [
        (BudgetError("nothing is so cheap"), C.INFEASIBLE, PLAN),
        (UnsupportedModelError("a hybrid stem"), C.REQUEST, PLAN),
        (WeightsError("a pickle"), C.REQUEST, PLAN),
        (SpaceError("an unknown knob"), C.REQUEST, PLAN),
        (RequestError("no such thing"), C.REQUEST, PLAN),
        (SpecError([ValidationIssue(place=("flops",), problem="is needed")]), C.REQUEST, PLAN),
        (DatasetError("3 of 9 images cannot be read"), C.DATA, LOGS),
        (of_a_task(DatasetError("3 of 9 images cannot be read")), C.DATA, LOGS),
        (DivergedError("the loss is nan"), C.DIVERGED, "autoslim submit job.yaml --lr 0.0001"),
        (TrialsFailedError("the first 5 trials all failed", "DivergedError"), C.DIVERGED, "autoslim submit job.yaml --lr 0.0001"),
        (TrialsFailedError("the first 5 trials all failed", "ValueError"), C.BUG, LOGS),
        (
            TrialsFailedError("the first 5 trials all failed", "OutOfMemoryError"),
            C.OOM,
            "autoslim submit job.yaml --batch-size 32",
        ),
        (torch.OutOfMemoryError("CUDA out of memory"), C.OOM, "autoslim submit job.yaml --batch-size 32"),
        (MemoryError(), C.OOM, "autoslim submit job.yaml --batch-size 32"),
        (
            caused(JobError("no base"), ray.exceptions.OutOfMemoryError("killed")),
            C.OOM,
            "autoslim submit job.yaml --batch-size 32",
        ),
        (JobError("a model does not load"), C.BUG, LOGS),
        (caused(JobError("no base"), of_a_task(ZeroDivisionError("division by zero"))), C.BUG, LOGS),
        (KeyError("flops"), C.BUG, LOGS),
        (ProgrammingError("SELECT", {}, Exception("no such table")), C.BUG, LOGS),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_the_job_fails(error, failure_class, next_command):
    found = diagnose(error, job_id="ID", spec=SPEC)
    assert isinstance(found, Failure)
    assert (found.failure_class, found.next) == (failure_class, next_command)
    assert found.message
    assert "\n" not in found.message


@pytest.mark.parametrize(
    ("error", "failure_class", "reason"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            C.STORAGE,
            "the disk is full; the job continues by itself when there is room",
        ),
        (disk_full_error(Path("/runs"), "continue with --resume"), C.STORAGE, "the disk is full; the job continues by itself"),
        (OutputError("output folder /runs has 0.10 GB free; this search needs about 4 GB"), C.STORAGE, "has 0.10 GB free"),
        (OSError(errno.ESTALE, "Stale file handle"), C.STORAGE, "Stale file handle"),
        (caused(JobError("no base"), OSError(errno.EIO, "Input/output error")), C.STORAGE, "no base"),
        (UnavailableError("the database cannot be reached"), C.INFRA, "the database cannot be reached"),
        (
            caused(JobError("a model could not be judged"), ray.exceptions.NodeDiedError("gone")),
            C.INFRA,
            "part of the cluster was lost",
        ),
        (ray.exceptions.ActorDiedError(), C.INFRA, "part of the cluster was lost"),
        (TrialsFailedError("the first 5 trials all failed", "WorkerLostError"), C.INFRA, "part of the cluster was lost"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_the_job_is_paused(error, failure_class, reason):
    found = diagnose(error, job_id="ID", spec=SPEC)
    assert isinstance(found, Pause)
    assert found.failure_class is failure_class
    assert reason in found.reason


def test_a_failure_by_divergence_says_what_diverged_and_advises_a_tenth_of_that_rate():
    said = "the loss is nan at step 40 of the {} phase (epoch 2, learning rate 0.001); its part teacher is not finite"
    trials = TrialsFailedError(
        f"the first 5 trials all failed; the last one with DivergedError: {said.format('train')}", "DivergedError"
    )
    found = diagnose(trials, job_id="ID", spec=SPEC)
    assert said.format("train") in found.message
    assert found.next == "autoslim submit job.yaml --lr 0.0001"
    dense = DivergedError(said.format("adapt"))
    assert diagnose(dense, job_id="ID", spec=SPEC).next == "autoslim submit job.yaml --base-lr 0.0001"
    spec = SPEC.model_copy(update={"base_lr": 3e-3})
    assert diagnose(dense, job_id="ID", spec=spec).next == "autoslim submit job.yaml --base-lr 0.0003"


def test_a_spec_that_could_not_be_read_has_a_next_command_too():
    assert diagnose(MemoryError(), job_id="ID").next == LOGS


def test_a_search_without_a_model_names_its_budgets():
    found = no_model({"50%": "nothing fits", "drop-1": "no trial keeps to it"}, job_id="ID", spec=SPEC)
    assert (found.failure_class, found.next) == (C.INFEASIBLE, PLAN)
    assert found.message == "50%: nothing fits; drop-1: no trial keeps to it"
