"""What the operator's tools ask: is it alive, is it ready, how is it doing; and what a spec may ask for."""

from __future__ import annotations

import asyncio
import importlib.metadata
from typing import get_args

import httpx
from fastapi import APIRouter, Response

from autoslim.config import JobSpec
from autoslim.errors import AutoslimError
from autoslim.service.app_state import AppState
from autoslim.service.auth import Reader, Shared
from autoslim.service.metrics import MEDIA_TYPE, exposition
from autoslim.service.planning.model_arguments import RULES
from autoslim.service.schemas import Capabilities, Health, MethodView, Readiness

router = APIRouter(tags=["operation"])

_PATIENCE = 2.0


@router.get("/v1/capabilities")
async def capabilities(_: Reader, shared: Shared) -> Capabilities:
    """Names and bounds of what a spec may have."""
    facts, settings, fields = await shared.planner.facts(), shared.settings, JobSpec.model_fields
    return Capabilities(
        version=importlib.metadata.version("autoslim"),
        models=shared.catalog.timm_names(facts["models"]),
        model_args={name: allowed for name, (_, allowed) in RULES.items()},
        methods=[MethodView(**method) for method in facts["methods"]],
        spaces=facts["spaces"],
        datasets=shared.catalog.datasets(),
        paths=bool(settings.data_roots),
        pretrained=settings.pretrained,
        samplers=list(get_args(fields["sampler"].annotation)),
        augmentations=list(get_args(fields["augmentation"].annotation)),
        limits=settings.limits.model_dump(),
    )


@router.get("/healthz")
async def healthz() -> Health:
    """That the process answers; nothing else is asked."""
    return Health(status="ok")


@router.get("/readyz", responses={503: {"model": Readiness, "description": "The store cannot be reached."}})
async def readyz(shared: Shared, response: Response) -> Readiness:
    """Whether jobs can be taken. Ray and MLflow may be away for a while: jobs wait for them."""
    store, ray, mlflow = await asyncio.gather(
        _store(shared), _there(shared.settings.ray_dashboard_url, "/api/version"), _there(shared.settings.mlflow_url, "/health")
    )
    ready = store == "ok" and not shared.hub.closing
    response.status_code = 200 if ready else 503
    return Readiness(ready=ready, dependencies={"store": store, "ray": ray, "mlflow": mlflow})


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})
async def metrics(identity: Reader, shared: Shared) -> Response:
    """For Prometheus; of the jobs that the key may see."""
    return Response(await shared.run(exposition, shared, identity.sees), media_type=MEDIA_TYPE)


async def _store(shared: AppState) -> str:
    try:
        async with asyncio.timeout(_PATIENCE):
            await shared.run(shared.queue.last_seq)
    except (AutoslimError, TimeoutError):
        return "unreachable"
    return "ok"


async def _there(url: str | None, path: str) -> str:
    """401 is an answer, too: it is there, and guarded."""
    if url is None:
        return "not configured"
    try:
        async with httpx.AsyncClient(timeout=_PATIENCE, trust_env=False) as client:
            answer = await client.get(url.rstrip("/") + path)
    except (httpx.HTTPError, httpx.InvalidURL):
        return "unreachable"
    return "ok" if answer.status_code < 500 else "unreachable"
