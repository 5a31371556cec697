"""Turns `application/problem+json` (RFC 9457) into a typed exception."""

from __future__ import annotations

import json
from typing import Any

import httpx

from autoslim.client import errors
from autoslim.client.errors import ServiceError, UnexpectedReplyError

CODES: dict[str, type[ServiceError]] = {
    "invalid-spec": errors.InvalidSpecError,
    "infeasible-budget": errors.InfeasibleBudgetError,
    "invalid-request": errors.RefusedError,
    "invalid-parameter": errors.RefusedError,
    "idempotency-key-reused": errors.KeyReusedError,
    "not-found": errors.NotFoundError,
    "not-ended": errors.ConflictError,
    "content-too-large": errors.TooLargeError,
    "unauthenticated": errors.UnauthorizedError,
    "forbidden": errors.ForbiddenError,
    "too-many-requests": errors.TooManyRequestsError,
    "queue-full": errors.TooManyRequestsError,
    "too-many-plans": errors.TooManyRequestsError,
    "too-many-streams": errors.UnreachableError,
    "store-unavailable": errors.UnreachableError,
    "plan-unavailable": errors.UnreachableError,
    "internal-error": errors.UnreachableError,
}
"""By the problem's code; an unknown one falls back to the status."""

_STATUSES: dict[int, type[ServiceError]] = {
    401: errors.UnauthorizedError,
    403: errors.ForbiddenError,
    404: errors.NotFoundError,
    409: errors.ConflictError,
    413: errors.TooLargeError,
    429: errors.TooManyRequestsError,
}


def error_from_response(response: httpx.Response) -> ServiceError:
    """The exception for a response that is neither 2xx nor 304."""
    status, problem = response.status_code, _problem(response)
    if problem is None:
        kind = _STATUSES.get(status) or (errors.UnreachableError if status >= 500 else UnexpectedReplyError)
        return kind(f"{response.url} answered {status} {response.reason_phrase}".rstrip(), status=status)
    code = str(problem.get("code") or str(problem.get("type", "")).rpartition(":")[2] or "unknown")
    fallback = errors.UnreachableError if status >= 500 else errors.RefusedError
    kind = CODES.get(code) or _STATUSES.get(status) or fallback
    errors_found = tuple(_located(item) for item in problem.get("errors") or () if isinstance(item, dict))
    text = str(problem.get("detail") or problem.get("title") or f"the service answered {status}")
    message = "\n".join(detail for _, detail in errors_found if detail) or text
    return kind(message, code=code, status=status, errors=errors_found, request_id=response.headers.get("X-Request-Id"))


def _problem(response: httpx.Response) -> dict[str, Any] | None:
    if "json" not in response.headers.get("Content-Type", ""):
        return None
    try:
        found = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    return found if isinstance(found, dict) else None


def _located(item: dict[str, Any]) -> tuple[str, str]:
    return str(item.get("pointer") or item.get("parameter") or ""), str(item.get("detail", ""))
