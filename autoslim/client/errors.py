"""The errors of the clients: a class per group of the service's problem codes.

ServiceError                   has `code`, `status`, `errors` (pointer into the spec and message) and `request_id`
├── RefusedError               the request is wrong; exit code 2
│   ├── InvalidSpecError
│   ├── InfeasibleBudgetError   no method meets a budget; exit code 3
│   ├── KeyReusedError
│   ├── NotFoundError
│   ├── ConflictError
│   └── TooLargeError
├── UnreachableError           no response, or one that says nothing about the request; exit code 4
│   ├── UnauthorizedError
│   ├── ForbiddenError
│   ├── TooManyRequestsError
│   └── UnexpectedReplyError   the response is not that of an autoslim service
JobEndedError                  the job failed or was cancelled, so that it has no result; has the `job`
WaitTimeoutError               the job has not ended in time; it continues
PullError                      files that are damaged, or that would be written outside the folder
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoslim import errors
from autoslim.errors import AutoslimError, BudgetError, JobError, RequestError, UnavailableError

if TYPE_CHECKING:
    from autoslim.client.replies import JobReply


class ServiceError(AutoslimError):
    """`code` is stable; the message is for people."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "unknown",
        status: int | None = None,
        errors: Sequence[tuple[str, str]] = (),
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.status, self.errors, self.request_id = code, status, tuple(errors), request_id


class RefusedError(ServiceError, RequestError):
    """The service refuses the request; repeating it does not help."""

    exit_code = RequestError.exit_code


class InvalidSpecError(RefusedError):
    """A field of the spec is not allowed; `errors` say which and why."""


class InfeasibleBudgetError(InvalidSpecError):
    """No method of the search space meets a budget."""

    exit_code = BudgetError.exit_code


class KeyReusedError(RefusedError):
    """The Idempotency-Key belongs to another request."""


class NotFoundError(RefusedError, errors.NotFoundError):
    """There is no such job, attempt or file, or it is another tenant's."""


class ConflictError(RefusedError):
    """Not possible in the job's state."""


class TooLargeError(RefusedError):
    """The request is larger than the service allows."""


class UnreachableError(ServiceError, UnavailableError):
    """No response that says anything about the request; it may be repeated later."""

    exit_code = UnavailableError.exit_code


class UnauthorizedError(UnreachableError):
    """No API key, or one that is unknown, expired or revoked."""


class ForbiddenError(UnreachableError):
    """The API key lacks the scope for this."""


class TooManyRequestsError(UnreachableError):
    """Above the rate limit, or the limit of queued jobs or plans."""


class UnexpectedReplyError(UnreachableError):
    """The response is not one of autoslim's API; another program may answer at this address."""


class JobEndedError(JobError):
    """The job failed or was cancelled; `job.failure.next` is the command that helps."""

    def __init__(self, job: JobReply) -> None:
        failure = job.failure
        message = f": {failure.message}" if failure else ""
        super().__init__(
            f"job {job.id} ended as {job.state}{message}" + (f" Next: {failure.next}" if failure and failure.next else "")
        )
        self.job = job
        if failure is not None and failure.failure_class == "INFEASIBLE":
            self.exit_code = BudgetError.exit_code


class WaitTimeoutError(AutoslimError, TimeoutError):
    """The job has not ended in time; it continues."""


class PullError(AutoslimError):
    """Files that are damaged, unsafe, or do not fit on the disk. The folder is unchanged."""
