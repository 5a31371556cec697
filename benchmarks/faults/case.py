"""`Case`: one fault or attack; `Stage`: the service and the user that it happens to."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from faults.service import Service
from faults.user import User


@dataclasses.dataclass(frozen=True)
class Stage:
    """`folder` is the case's own; `user` has submitted a job and watches it; `theirs` is another tenant's key, where there are keys."""

    folder: Path
    service: Service
    user: User
    theirs: str | None = None


@contextlib.contextmanager
def plain(folder: Path) -> Iterator[Service]:
    """A service on SQLite with the supervisor's drivers as processes of this machine."""
    with Service(folder).running() as service:
        yield service


class MissingError(Exception):
    """What a case needs is not on this machine: a program, or a right."""


@dataclasses.dataclass(frozen=True)
class Case:
    """`strike` returns when the fault is over, with what others than the user were told. It begins when the job's first trial has ended,
    or with `early` as soon as the job is submitted. `tenants` says that the service has keys, `may_fail` that the job may end without a
    model as long as it says why. `slow` is why the job may take longer than the rule on wall time allows.

    `host` raises MissingError where the case cannot be played.
    """

    name: str
    strike: Callable[[Stage], str]
    host: Callable[[Path], contextlib.AbstractContextManager[Service]] = plain
    early: bool = False
    tenants: bool = False
    may_fail: bool = False
    slow: str = ""
