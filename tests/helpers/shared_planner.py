"""Planners that start in a moment: forks of one process for the whole run of the tests, `planner_template`."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from helpers import planner_stand_in

_FOLDER = "TEST_PLANNERS"


@contextlib.contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """While a process of pytest is in it, the processes of this run share the template in `folder`."""
    folder.mkdir(exist_ok=True)
    with open(folder / planner_stand_in.IN_USE, "w") as file, pytest.MonkeyPatch.context() as patch:
        fcntl.flock(file, fcntl.LOCK_SH)
        patch.setenv(_FOLDER, str(folder))
        yield


def program() -> tuple[str, ...]:
    """For `autoslim.service.dry_run.planner.PROGRAM`."""
    return ("-S", "-E", planner_stand_in.__file__, os.environ[_FOLDER])


def planner_of(stand_in: int) -> psutil.Process:
    """The planner behind the process that the service knows."""
    return psutil.Process(int(Path(os.environ[_FOLDER], str(stand_in)).read_text()))
