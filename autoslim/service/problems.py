"""Errors as `application/problem+json` (RFC 9457), with pointers into the spec where it is at fault."""

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
from autoslim.errors import AutoslimError, BudgetError, ClusterError, IdempotencyError, NotFoundError, RequestError
from autoslim.service.planning.client import PlannerError

_log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_TYPE = "urn:autoslim:problem:"
_RETRY = {"Retry-After": "5"}


class Error(BaseModel):
    """`pointer` (RFC 6901) is into the body, `parameter` names a query parameter or header."""

    detail: str
    pointer: str | None = None
    parameter: str | None = None


class Problem(BaseModel):
    """What went wrong, in RFC 9457's terms. `code` is stable; `detail` is for people."""

    type: str
    code: str
    title: str
    status: int
    detail: str
    request_id: str | None = None
    errors: list[Error] = Field(default_factory=list)


class ProblemError(Exception):
    """A problem that a route answers with."""

    def __init__(
        self, status: int, code: str, detail: str, *, errors: Sequence[Error] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.errors, self.headers = status, code, detail, list(errors), dict(headers or {})


def not_found(what: str = "job") -> ProblemError:
    """The same for what does not exist and for what is another tenant's."""
    return ProblemError(404, "not-found", f"there is no such {what}")


def render(
    request_id: str | None,
    status: int,
    code: str,
    detail: str,
    *,
    errors: Sequence[Error] = (),
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


def install(app: FastAPI) -> None:
    """Every error of the app becomes a problem."""
    app.add_exception_handler(ProblemError, _problem)
    app.add_exception_handler(RequestValidationError, _parameters)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(AutoslimError, _ours)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems of a route, for the OpenAPI."""
    body = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": body} for status in statuses}


def _answer(request: Request, *arguments: Any, **options: Any) -> Response:
    return render(getattr(request.state, "request_id", None), *arguments, **options)


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return _answer(request, error.status, error.code, error.detail, errors=error.errors, headers=error.headers)


async def _parameters(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [
        Error(detail=f"is {short_repr(detail.get('input'))}: {detail['msg']}", parameter=".".join(map(str, detail["loc"][1:])))
        for detail in error.errors()
    ]
    return _answer(request, 422, "invalid-parameter", "a parameter of the request is not allowed", errors=errors)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, headers = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-"), dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed(request))
    return _answer(request, error.status_code, code, str(error.detail), headers=headers)


def _allowed(request: Request) -> list[str]:
    """Of all routes of this path; the router names the methods of the first one only."""
    scopes = {method: {**request.scope, "method": method} for method in ("DELETE", "GET", "POST")}
    routes = request.app.routes
    return [method for method, scope in scopes.items() if any(route.matches(scope)[0] is Match.FULL for route in routes)]


async def _ours(request: Request, error: Exception) -> Response:
    match error:
        case SpecError():
            errors = [Error(detail=issue.told(issue.field), pointer=issue.pointer) for issue in error.issues]
            code = "infeasible-budget" if isinstance(error, BudgetError) else "invalid-spec"
            return _answer(request, 422, code, "the job's spec cannot be carried out", errors=errors)
        case BudgetError():
            return _answer(request, 422, "infeasible-budget", str(error))
        case IdempotencyError():
            return _answer(request, 422, "idempotency-key-reused", str(error))
        case NotFoundError():
            missing = not_found()
            return _answer(request, missing.status, missing.code, missing.detail)
        case PlannerError():
            return _answer(request, 503, "no-plan", str(error), headers=_RETRY)
        case ClusterError():
            # Its text has the store's address, which is the operator's alone.
            _log.error("the store cannot be reached: %s", error)
            return _answer(request, 503, "store-unavailable", "the service's database cannot be reached", headers=_RETRY)
        case RequestError():
            return _answer(request, 422, "request-refused", str(error))
    return unexpected(getattr(request.state, "request_id", None), error)


def unexpected(request_id: str | None, error: Exception) -> Response:
    """Nothing of the error leaves the service but that there was one."""
    _log.error("unexpected error", exc_info=error)
    return render(
        request_id, 500, "internal-error", "the service met an error of its own; its log has it under this request's id"
    )
