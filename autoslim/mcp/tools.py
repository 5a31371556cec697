"""`ServiceTools`: each method is a tool, whose docstring and annotations a language model reads.

No argument is a path of this machine: a job's specification is sent as it is, and no file is read for it.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from autoslim.client import AsyncClient, calls
from autoslim.client.replies import Reply
from autoslim.config import read_mapping
from autoslim.mcp.spec_schema import spec_schema

# Answers fill the context of a model: what may be long has a limit.
_JOBS, _TRIALS, _MODELS = 20, 50, 50

Spec = Annotated[dict[str, Any], WithJsonSchema(spec_schema()), Field(description="The job's specification.")]
JobId = Annotated[str, Field(description="Id of a job, from list_jobs or submit_job.")]


class ServiceTools:
    """Errors are `AutoslimError`s with the service's sentence."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list_methods_and_models(
        self,
        pattern: Annotated[str, Field(description="Pattern of the models' names, such as `vit_small*`.")] = "*",
        limit: Annotated[int, Field(ge=1, description="Names of models at most.")] = _MODELS,
    ) -> dict[str, Any]:
        """What a job may name: the models that match a pattern, methods with their papers, search spaces, data sets, and limits."""
        found = await self._client.capabilities()
        models = [name for name in found["models"] if fnmatchcase(name, pattern)]
        return {**found, "models": models[:limit], "matching_models": len(models)}

    async def plan_job(self, spec: Spec) -> dict[str, Any]:
        """What a search could reach within each budget, and how much work it takes. Nothing is queued or trained."""
        return await self._client.call(calls.plan(read_mapping(spec)))

    async def submit_job(
        self,
        spec: Spec,
        idempotency_key: Annotated[
            str | None,
            Field(description="The same key with the same specification gives the same job, also after a lost answer."),
        ] = None,
    ) -> dict[str, Any]:
        """Queue a search for the best slimmed model within each budget. It takes minutes to hours of computing; plan_job says how much."""
        job = await self._client.call(calls.submit(read_mapping(spec), idempotency_key))
        return _plain(job)

    async def list_jobs(
        self,
        state: Annotated[list[str], Field(description="Only jobs in one of these states, such as SEARCHING or SUCCEEDED.")] = [],  # noqa: B006
        name: Annotated[str | None, Field(description="Only jobs of this name.")] = None,
        limit: Annotated[int, Field(ge=1, le=200, description="Jobs at most.")] = _JOBS,
    ) -> dict[str, Any]:
        """Jobs, the newest first, with their states and best trials so far."""
        page = await self._client.call(calls.jobs(states=state, label=name, page_size=limit, page_token=None))
        return {"jobs": [_plain(job) for job in page.jobs], "more": page.next_page_token is not None}

    async def get_job(self, job_id: JobId) -> dict[str, Any]:
        """A job's state, progress and best trial of each budget; at its end the models with accuracies, FLOPs and why each was chosen."""
        job = await self._client.call(calls.job(job_id))
        return _plain(job)

    async def list_trials(
        self, job_id: JobId, limit: Annotated[int, Field(ge=1, le=1000, description="Trials at most, the latest.")] = _TRIALS
    ) -> dict[str, Any]:
        """The trials of a job by number: method, state, accuracy, FLOPs, and the error of one that failed."""
        trials = await (await self._client.job(job_id)).trials()
        return {"trials": [_plain(trial) for trial in trials[-limit:]], "total": len(trials)}

    async def get_front(self, job_id: JobId) -> dict[str, Any]:
        """The Pareto front of a job: the trials that no other beats in both FLOPs and accuracy."""
        return await self._client.call(calls.front(job_id))

    async def cancel_job(self, job_id: JobId) -> dict[str, Any]:
        """Ask a job to stop. Finished trials are kept, and the job cannot be started again; a second request changes nothing."""
        job = await self._client.call(calls.cancel(job_id))
        return _plain(job)


def _plain(reply: Reply) -> dict[str, Any]:
    return reply.model_dump(mode="json", exclude_none=True)
