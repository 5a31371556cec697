"""Errors that reach the driver through Ray: a task's own error is raised as it is, everything else is the cluster's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ray.exceptions import RayError, RayTaskError

from autoslim.errors import AutoslimError, JobError


@contextlib.contextmanager
def unwrapped_task_errors(failure: str) -> Iterator[None]:
    """Wraps a `ray.get`; `failure` is the start of the message, as in "the latency could not be measured".

    Raises:
        AutoslimError: the one that the task raised.
        JobError: for any other error of the task, with the remote traceback, and for a lost worker or node.
    """
    try:
        yield
    except RayError as error:
        cause = error.cause if isinstance(error, RayTaskError) else None
        if isinstance(cause, AutoslimError):
            raise cause from error
        raise JobError(f"{failure}: {error}") from error


def is_cluster_failure(error: BaseException) -> bool:
    """Whether a part of the cluster was lost. A RayTaskError is the task's own error, every other RayError the cluster's."""
    return isinstance(error, RayError) and not isinstance(error, RayTaskError)
