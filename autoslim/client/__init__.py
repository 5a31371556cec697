"""The service's Python clients, `Client` and `AsyncClient` (also `autoslim.Client`), with their replies and errors."""

from autoslim.core.extras import needs_extra

with needs_extra("client", "autoslim.Client"):
    from autoslim.client.async_client import AsyncClient, AsyncJob
    from autoslim.client.errors import (
        ConflictError,
        ForbiddenError,
        InfeasibleBudgetError,
        InvalidSpecError,
        JobEndedError,
        KeyReusedError,
        NotFoundError,
        PullError,
        RefusedError,
        ServiceError,
        TooLargeError,
        TooManyRequestsError,
        UnauthorizedError,
        UnexpectedReplyError,
        UnreachableError,
        WaitTimeoutError,
    )
    from autoslim.client.replies import Artifact, Event, Failure, JobReply, Progress, Result, SelectedModel, Trial
    from autoslim.client.sync_client import Client, Job

__all__ = [
    "Artifact",
    "AsyncClient",
    "AsyncJob",
    "Client",
    "ConflictError",
    "Event",
    "Failure",
    "ForbiddenError",
    "InfeasibleBudgetError",
    "InvalidSpecError",
    "Job",
    "JobEndedError",
    "JobReply",
    "KeyReusedError",
    "NotFoundError",
    "Progress",
    "PullError",
    "RefusedError",
    "Result",
    "SelectedModel",
    "ServiceError",
    "TooLargeError",
    "TooManyRequestsError",
    "Trial",
    "UnauthorizedError",
    "UnexpectedReplyError",
    "UnreachableError",
    "WaitTimeoutError",
]
