"""Errors as `application/problem+json` (RFC 9457), with JSON pointers into the spec where a field is wrong."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from autoslim.config import SpecError
from autoslim.config.issues import short_repr
from autoslim.errors import (
    AutoslimError,
    BudgetError,
    IdempotencyError,
    NotFoundError,
    QuotaError,
    RequestError,
    UnavailableError,
)
from autoslim.service.dry_run.errors import DryRunError, PlanCrashedError, PlanQueueFullError

_log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_TYPE = "urn:autoslim:problem:"
# Seconds: a short outage is over by then, and clients lengthen the pause themselves.
_RETRY = {"Retry-After": "5"}
# Seconds: jobs end in minutes at the soonest.
_QUEUE_RETRY = {"Retry-After": "60"}


class FieldError(BaseModel):
    """`pointer` (RFC 6901) points into the body, `parameter` names a query parameter or header."""

    detail: str
    pointer: str | None = None
    parameter: str | None = None


class Problem(BaseModel):
    """RFC 9457's members, and `code`, which is stable. `detail` is for people and may change."""

    type: str
    code: str
    title: str
    status: int
    detail: str
    request_id: str | None = None
    errors: list[FieldError] = Field(default_factory=list)


class ProblemError(Exception):
    """Raised by a route; the response is the problem."""

    def __init__(
        self, status: int, code: str, detail: str, *, errors: Sequence[FieldError] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.errors, self.headers = status, code, detail, list(errors), dict(headers or {})


def not_found(what: str = "job") -> ProblemError:
    """The same for a job that does not exist and for another tenant's, so that ids cannot be probed."""
    return ProblemError(404, "not-found", f"there is no such {what}")


def problem_response(
    request_id: str | None,
    status: int,
    code: str,
    detail: str,
    *,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    problem = Problem(
        type=_TYPE + code,
        code=code,
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        request_id=request_id,
        errors=list(errors),
    )
    return JSONResponse(problem.model_dump(exclude_none=True), status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def add_exception_handlers(app: FastAPI) -> None:
    """Turns every error of the app into a problem."""
    app.add_exception_handler(ProblemError, _problem)
    app.add_exception_handler(RequestValidationError, _invalid_parameters)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(AutoslimError, _autoslim_error)


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """A route's `responses` for the OpenAPI document."""
    body = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": body} for status in statuses}


def _respond(request: Request, *arguments: Any, **options: Any) -> Response:
    return problem_response(getattr(request.state, "request_id", None), *arguments, **options)


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return _respond(request, error.status, error.code, error.detail, errors=error.errors, headers=error.headers)


async def _invalid_parameters(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [
        FieldError(
            detail=f"is {short_repr(detail.get('input'))}: {detail['msg']}", parameter=".".join(map(str, detail["loc"][1:]))
        )
        for detail in error.errors()
    ]
    return _respond(request, 422, "invalid-parameter", "a parameter of the request is not allowed", errors=errors)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, headers = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-"), dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed_methods(request))
    return _respond(request, error.status_code, code, str(error.detail), headers=headers)


def _allowed_methods(request: Request) -> list[str]:
    """Of all routes of this path; the router only gives the methods of the first one."""
    scopes = {method: {**request.scope, "method": method} for method in ("DELETE", "GET", "POST")}
    routes = request.app.routes
    return [method for method, scope in scopes.items() if any(route.matches(scope)[0] is Match.FULL for route in routes)]


async def _autoslim_error(request: Request, error: Exception) -> Response:
    match error:
        case SpecError():
            errors = [FieldError(detail=issue.message(issue.field), pointer=issue.pointer) for issue in error.issues]
            code = "infeasible-budget" if isinstance(error, BudgetError) else "invalid-spec"
            return _respond(request, 422, code, "the job's spec cannot be carried out", errors=errors)
        case BudgetError():
            return _respond(request, 422, "infeasible-budget", str(error))
        case IdempotencyError():
            return _respond(request, 422, "idempotency-key-reused", str(error))
        case QuotaError():
            return _respond(request, 429, "queue-full", str(error), headers=_QUEUE_RETRY)
        case NotFoundError():
            missing = not_found()
            return _respond(request, missing.status, missing.code, missing.detail)
        case PlanQueueFullError():
            return _respond(request, 429, "too-many-plans", str(error), headers={"Retry-After": str(error.retry_after)})
        case PlanCrashedError():
            return internal_error(getattr(request.state, "request_id", None), error)
        case DryRunError():
            return _respond(request, 503, "plan-unavailable", str(error), headers=_RETRY)
        case UnavailableError():
            # The message has the store's address, which only the operator may see.
            _log.error("the store cannot be reached: %s", error)
            return _respond(request, 503, "store-unavailable", "the service's database cannot be reached", headers=_RETRY)
        case RequestError():
            return _respond(request, 422, "invalid-request", str(error))
    return internal_error(getattr(request.state, "request_id", None), error)


def internal_error(request_id: str | None, error: Exception) -> Response:
    """Logs the error; the response says nothing about it but the request's id."""
    _log.error("unexpected error", exc_info=error)
    return problem_response(
        request_id, 500, "internal-error", "an internal error; the service's log has it under this request's id"
    )
