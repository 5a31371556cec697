"""Dependencies of the routes of one job: the job of the path, if the caller may see or change it."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Path
from starlette.convertors import StringConvertor, register_url_convertor

from autoslim.service.app_state import AppState, State
from autoslim.service.auth import Identity, Reader, Submitter
from autoslim.service.problems import not_found
from autoslim.store import QueuedJob

_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


class _JobId(StringConvertor):
    """Excludes the colon, so that `/jobs/ID:cancel` matches its own route only."""

    regex = "[^/:]+"


register_url_convertor("job", _JobId())

JobId = Annotated[str, Path(description="The `id` of the submitted job.")]


async def get_readable_job(job_id: JobId, identity: Reader, state: State) -> QueuedJob:
    return await _find(job_id, identity, state)


async def get_changeable_job(job_id: JobId, identity: Submitter, state: State) -> QueuedJob:
    return await _find(job_id, identity, state)


async def _find(job_id: str, identity: Identity, state: AppState) -> QueuedJob:
    """A malformed id, an unknown one and another tenant's job all give the same 404."""
    if not _ULID.fullmatch(job_id):
        raise not_found()
    return await state.run_sync(state.queue.get, job_id, identity.visible_tenant)


ReadableJob = Annotated[QueuedJob, Depends(get_readable_job)]
ChangeableJob = Annotated[QueuedJob, Depends(get_changeable_job)]
