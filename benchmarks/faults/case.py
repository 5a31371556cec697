"""`Case`: one fault or attack; `Stage`: the service and the user that it happens to."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from faults.service import Service
from faults.user import User


@dataclasses.dataclass(frozen=True)
class Stage:
    """`folder` is the case's own; `user` has submitted a job and watches it; `theirs` is another tenant's key, where there are keys."""

    folder: Path
    service: Service
    user: User
    theirs: str | None = None

    @property
    def other(self) -> str:
        """The name of the user's other jobs, which those of other cases do not have."""
        return f"{self.user.name}-other"

    def driver(self) -> psutil.Process:
        return self.service.driver(self.user.job["id"])

    def trial(self) -> psutil.Process:
        """A process in which a trial runs at this moment. Raises TimeoutError where the job ends before there is one."""
        return self.user.before_end(lambda: self.service.trial(self.user.job["id"]), "a trial that runs")


@contextlib.contextmanager
def plain(folder: Path) -> Iterator[Service]:
    """A service on SQLite with the supervisor's drivers as processes of this machine."""
    with Service(folder).running() as service:
        yield service


class MissingError(Exception):
    """What a case needs is not on this machine: a program, or a right."""


@dataclasses.dataclass(frozen=True)
class Case:
    """`strike` returns when the fault is over and has shown, with what others than the user were told. It begins when the job's first trial
    has ended, or with `early` as soon as the job is submitted. `tenants` says that the service has keys, `may_fail` that the job may end
    without a model as long as it says why, `shares` that the case leaves a `plain` service as it was, so that the next one plays on it.
    `attempts` are those that the job takes, where that is certain. `job` is one of JOBS, by what the fault costs. `spec` is what the job
    has beside the settings of JOBS.

    `host` raises MissingError where the case cannot be played.
    """

    name: str
    strike: Callable[[Stage], str]
    host: Callable[[Path], contextlib.AbstractContextManager[Service]] = plain
    early: bool = False
    tenants: bool = False
    may_fail: bool = False
    attempts: int | None = None
    shares: bool = True
    job: str = "lasting"
    spec: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def on_shared_service(self) -> bool:
        return self.shares and self.host is plain and not self.tenants
