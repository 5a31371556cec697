"""Liveness, readiness and metrics for the operator's tools, and the capabilities of the service."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging

import httpx
from fastapi import APIRouter, Response

from autoslim.core.job import SAMPLER_NAMES
from autoslim.core.recipe import AUGMENTATIONS
from autoslim.errors import AutoslimError
from autoslim.service.app_state import AppState, State
from autoslim.service.auth import Reader
from autoslim.service.dry_run.model_arguments import RULES
from autoslim.service.metrics import MEDIA_TYPE, render_metrics
from autoslim.service.schemas import Capabilities, DependencyState, Health, MethodInfo, Readiness

_log = logging.getLogger(__name__)
router = APIRouter(tags=["operation"])

# Seconds: a load balancer or Kubernetes gives up on a probe after a few seconds.
_PROBE_SECONDS = 2.0


@router.get("/v1/capabilities")
async def capabilities(_: Reader, state: State) -> Capabilities:
    """The models, methods, spaces and data sets that a spec may name, and the limits."""
    known, settings = await state.dry_runner.capabilities(), state.settings
    return Capabilities(
        version=importlib.metadata.version("autoslim"),
        models=state.catalog.allowed_models(known["models"]),
        model_args={name: allowed for name, (_, allowed) in RULES.items()},
        methods=[MethodInfo(**method) for method in known["methods"]],
        spaces=known["spaces"],
        datasets=state.catalog.datasets(),
        paths=bool(settings.data_roots),
        pretrained=settings.pretrained,
        samplers=list(SAMPLER_NAMES),
        augmentations=list(AUGMENTATIONS),
        limits=settings.limits.model_dump(),
    )


@router.get("/healthz")
async def healthz() -> Health:
    """Liveness: answers without asking any other service."""
    return Health(status="ok")


@router.get(
    "/readyz",
    responses={503: {"model": Readiness, "description": "The store cannot be read or written, or the service is shutting down."}},
)
async def readyz(state: State, response: Response) -> Readiness:
    """Readiness: whether jobs can be submitted. Ray and MLflow may be down for a while; jobs wait for them."""
    store, ray, mlflow = await asyncio.gather(
        _probe_store(state),
        _probe(state.settings.ray_dashboard_url, "/api/version"),
        _probe(state.settings.mlflow_url, "/health"),
    )
    ready = store is DependencyState.OK and not state.events.closing
    response.status_code = 200 if ready else 503
    return Readiness(ready=ready, dependencies={"store": store, "ray": ray, "mlflow": mlflow})


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})
async def metrics(identity: Reader, state: State) -> Response:
    """Prometheus metrics of the jobs that the key may see."""
    text = await state.run_sync(
        render_metrics,
        state.metrics,
        queue=state.queue,
        store=state.store,
        open_streams=state.events.open_streams,
        tenant=identity.visible_tenant,
    )
    return Response(text, media_type=MEDIA_TYPE)


async def _probe_store(state: AppState) -> DependencyState:
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            await state.run_sync(state.queue.last_seq)
    except (AutoslimError, TimeoutError):
        return DependencyState.UNREACHABLE
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            await state.run_sync(state.queue.check_writable)
    except (AutoslimError, TimeoutError) as error:
        _log.warning("the store cannot be written: %s", error)
        return DependencyState.NOT_WRITABLE
    return DependencyState.OK


async def _probe(url: str | None, path: str) -> DependencyState:
    """Any status below 500 is OK: a 401 comes from a service that runs and needs a login."""
    if url is None:
        return DependencyState.NOT_CONFIGURED
    try:
        async with httpx.AsyncClient(timeout=_PROBE_SECONDS, trust_env=False) as client:
            response = await client.get(url.rstrip("/") + path)
    except (httpx.HTTPError, httpx.InvalidURL):
        return DependencyState.UNREACHABLE
    return DependencyState.OK if response.status_code < 500 else DependencyState.UNREACHABLE
