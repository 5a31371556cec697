"""Refuses unknown query parameters: `?stat=FAILED` would otherwise list every job."""

from __future__ import annotations

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from autoslim.config.issues import unknown
from autoslim.service.problems import FieldError, ProblemError


async def refuse_unknown_parameters(request: Request) -> None:
    """Raises ProblemError, a 422 that names at most ten of them."""
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    names = _parameters(route)
    errors = [
        FieldError(detail=unknown(name, names), parameter=name[:100])
        for name in dict.fromkeys(request.query_params)
        if name not in names
    ]
    if errors:
        raise ProblemError(422, "invalid-parameter", "unknown query parameter", errors=errors[:10])


def _parameters(route: APIRoute) -> tuple[str, ...]:
    def of(dependant: Dependant) -> list[str]:
        return [
            *(field.alias for field in dependant.query_params),
            *(name for part in dependant.dependencies for name in of(part)),
        ]

    return tuple(of(route.dependant))
