"""The service's client for Python: `Client` and `AsyncClient` (also `autoslim.Client`), their replies and their errors."""

from autoslim.core.extras import needs_extra

with needs_extra("client", "autoslim.Client"):
    from autoslim.client.asynchronous import AsyncClient, AsyncJob
    from autoslim.client.client import Client, Job
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
