"""Why there is no plan, where the spec is not at fault."""

from __future__ import annotations

from autoslim.errors import AutoslimError


class DryRunError(AutoslimError):
    """No plan came in time; the spec may be valid."""


class PlanOverdueError(DryRunError):
    """The plan took longer than the operator allows."""


class PlannerEndedError(DryRunError):
    """The planner ended before it had made the plan; the next request starts it again."""


class PlanCrashedError(DryRunError):
    """The planner failed in a way that no error of autoslim explains. The message is a traceback, for the log only."""


class PlannerStartingError(DryRunError):
    """The planner is still importing what it needs."""


class PlanQueueFullError(DryRunError):
    """A tenant has as many plans waiting as it may; `retry_after` are the seconds until one of them is likely to have ended."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after
