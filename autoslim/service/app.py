"""`create_app`: the service as an ASGI application."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi

from autoslim.config import JobSpec
from autoslim.service import late_plans, problems
from autoslim.service.app_state import AppState
from autoslim.service.metrics import RequestMetrics
from autoslim.service.middleware import AccessLog, BodyLimit, SameOrigin, SecurityHeaders, UnexpectedErrors
from autoslim.service.routers import artifacts, events, health, jobs, plans, trials
from autoslim.service.routers.query_parameters import refuse_unknown_parameters
from autoslim.service.settings import ServiceSettings

_DESCRIPTION = """Slims vision transformers to a FLOPs budget. Jobs are queued and run by workers; clients follow and cancel them, and
download the models.

Errors are `application/problem+json` with a stable `code`; errors of a spec have JSON pointers into it. Where the service has keys, a
request has the header `Authorization: Bearer autoslim_<id>_<secret>`."""


def create_app(settings: ServiceSettings, *, warm: bool = True) -> FastAPI:
    """Opens the store at startup and closes it at shutdown; `warm` starts the dry-run process at startup, too."""
    metrics = RequestMetrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.autoslim = state = AppState(settings, metrics)
        state.background.begin(late_plans.keep(state))
        # The first plan would otherwise wait for the dry-run process to import its packages.
        if warm:
            state.dry_runner.planner.start()
        try:
            yield
        finally:
            await state.close()

    # FastAPI's documentation pages load scripts from another site.
    app = FastAPI(title="autoslim", lifespan=lifespan, openapi_url="/v1/openapi.json", docs_url=None, redoc_url=None)
    problems.add_exception_handlers(app)
    for module in (jobs, plans, events, trials, artifacts):
        app.include_router(module.router, dependencies=[Depends(refuse_unknown_parameters)])
    app.include_router(health.router)
    # The middleware that is added last is the outermost.
    app.add_middleware(UnexpectedErrors)
    app.add_middleware(BodyLimit, limit=settings.limits.body_bytes)
    app.add_middleware(SameOrigin, hosts=settings.allowed_hosts)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(AccessLog, latency=metrics.latency)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document with the body's schema, which routes parse themselves, and with problems for its validation errors."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=importlib.metadata.version("autoslim"), description=_DESCRIPTION, routes=app.routes
        )
        schemas = document["components"]["schemas"]
        for model in (JobSpec, problems.Problem):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= schema.pop("$defs", {})
            schemas[model.__name__] = schema
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        for operation in (operation for path in document["paths"].values() for operation in path.values()):
            statuses = (400, 401, 403, 421, 422, 429, 503) if "security" in operation else (400, 403, 421)
            for status, response in problems.problem_responses(*statuses).items():
                if status == 422 or str(status) not in operation["responses"]:
                    operation["responses"][str(status)] = response
        document["components"]["schemas"] = dict(sorted(schemas.items()))
        app.openapi_schema = document
    return app.openapi_schema
