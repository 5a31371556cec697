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


@dataclasses.dataclass(frozen=True)
class Case:
    """`strike` returns when the fault is over, with what others than the user were told. It begins when the job's first trial has ended,
    or with `early` as soon as the job is submitted. `tenants` says that the service has keys.
    """

    name: str
    strike: Callable[[Stage], str]
    host: Callable[[Path], contextlib.AbstractContextManager[Service]] = plain
    early: bool = False
    tenants: bool = False
