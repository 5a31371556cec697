"""What a client raises: one class for each code that the service answers with (`docs/service/http.md`).

ServiceError                   carries `code`, `status`, `problems` (pointer into the spec, message) and `request_id`
├── RefusedError               the request cannot be carried out; exit code 2
│   ├── InvalidSpecError
│   ├── InfeasibleBudgetError   nothing reaches a budget; exit code 3
│   ├── KeyReusedError
│   ├── NotFoundError
│   ├── ConflictError
│   └── TooLargeError
├── UnreachableError           no answer, or one that only says that there is none now; exit code 4
│   ├── UnauthorizedError
│   ├── ForbiddenError
│   ├── TooManyRequestsError
│   └── UnexpectedReplyError   not the answer of an autoslim service
JobEndedError                  the job whose result was asked for failed or was cancelled; carries the job
WaitTimeoutError               the job had not ended yet; it goes on
PullError                      files that are not what the service says they are, or that would lie elsewhere
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoslim import errors
from autoslim.errors import AutoslimError, BudgetError, ClusterError, JobError, RequestError

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
        problems: Sequence[tuple[str, str]] = (),
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.status, self.problems, self.request_id = code, status, tuple(problems), request_id


class RefusedError(ServiceError, RequestError):
    """The service will not do this however often it is asked."""

    exit_code = RequestError.exit_code


class InvalidSpecError(RefusedError):
    """Something in the spec is not allowed; `problems` say what and where."""


class InfeasibleBudgetError(InvalidSpecError):
    """Nothing in the search space reaches a budget."""

    exit_code = BudgetError.exit_code


class KeyReusedError(RefusedError):
    """The Idempotency-Key belongs to another request."""


class NotFoundError(RefusedError, errors.NotFoundError):
    """There is no such job, attempt or file; another tenant's is none."""


class ConflictError(RefusedError):
    """Not in the state that the job is in."""


class TooLargeError(RefusedError):
    """A request larger than the service takes."""


class UnreachableError(ServiceError, ClusterError):
    """No answer that says anything about the request; it may be tried again."""

    exit_code = ClusterError.exit_code


class UnauthorizedError(UnreachableError):
    """No API key, or one that is unknown, expired or revoked."""


class ForbiddenError(UnreachableError):
    """The API key's scopes do not allow this."""


class TooManyRequestsError(UnreachableError):
    """More requests, or more jobs, than this key may have."""


class UnexpectedReplyError(UnreachableError):
    """Whatever answers at this address does not speak autoslim's API."""


class JobEndedError(JobError):
    """The job ended without what was asked for; `job` is how it stands, and says what to do next."""

    def __init__(self, job: JobReply) -> None:
        failure = job.failure
        told = f": {failure.message}" if failure else ""
        super().__init__(
            f"job {job.id} ended as {job.state}{told}" + (f" Next: {failure.next}" if failure and failure.next else "")
        )
        self.job = job
        if failure is not None and failure.failure_class == "INFEASIBLE":
            self.exit_code = BudgetError.exit_code


class WaitTimeoutError(AutoslimError, TimeoutError):
    """The time to wait is over; the job goes on."""


class PullError(AutoslimError):
    """What arrived is not what the service has, or does not fit where it should lie. Nothing was put into place."""
