"""The body of a request as a spec."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import Depends, Request

from autoslim.config import JobSpec, read_json
from autoslim.service.problems import ProblemError

_PATIENCE = 30.0
"""Seconds for a whole body to arrive."""

BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobSpec"}}}}
}


async def spec_of(request: Request) -> JobSpec:
    """Parsed by pydantic's own parser, which is strict and does not go deeper than the stack.

    Raises:
        SpecError: naming every field that is wrong.
        ProblemError: 415 for another media type, which other sites' pages may send; 408 for a body that does not come.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ProblemError(415, "unsupported-media-type", "the body must be application/json")
    try:
        async with asyncio.timeout(_PATIENCE):
            body = await request.body()
    except TimeoutError:
        raise ProblemError(408, "request-timeout", f"the body did not arrive within {_PATIENCE:g} seconds") from None
    return read_json(body)


Spec = Annotated[JobSpec, Depends(spec_of)]
