"""The request body as a job spec."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.requests import ClientDisconnect

from autoslim.config import JobSpec, read_json
from autoslim.service.problems import ProblemError

# Seconds for the whole body. A spec is at most 1 MiB; a slow sender must not hold a connection for ever.
_BODY_SECONDS = 30.0

SPEC_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobSpec"}}}}
}


async def read_spec(request: Request) -> JobSpec:
    """Parses with pydantic's JSON parser, which is strict and bounds the nesting.

    Raises:
        SpecError: naming every field that is wrong.
        ProblemError: 415 for any media type but JSON, 408 for a body that does not arrive in time, 400 for one that is broken off.
    """
    # Another site's page can only send "simple" media types without asking the service first; JSON is none of them.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ProblemError(415, "unsupported-media-type", "the body must be application/json")
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            body = await request.body()
    except TimeoutError:
        raise ProblemError(408, "request-timeout", f"the body did not arrive within {_BODY_SECONDS:g} seconds") from None
    except ClientDisconnect:
        # Nobody reads this; without it the log would have a traceback for every client that goes away.
        raise ProblemError(400, "incomplete-body", "the connection ended before the body") from None
    return read_json(body)


Spec = Annotated[JobSpec, Depends(read_spec)]
