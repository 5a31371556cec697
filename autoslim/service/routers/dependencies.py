"""The job that a path names, as far as the asker may know of it."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Path
from starlette.convertors import StringConvertor, register_url_convertor

from autoslim.service.app_state import AppState
from autoslim.service.auth import Identity, Reader, Shared, Submitter
from autoslim.service.problems import not_found
from autoslim.store import QueuedJob

_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


class _JobId(StringConvertor):
    """Not what stands before `:cancel`, which is another route's."""

    regex = "[^/:]+"


register_url_convertor("job", _JobId())

JobId = Annotated[str, Path(description="As it was given when the job was submitted.")]


async def readable(job_id: JobId, identity: Reader, shared: Shared) -> QueuedJob:
    return await _find(job_id, identity, shared)


async def changeable(job_id: JobId, identity: Submitter, shared: Shared) -> QueuedJob:
    return await _find(job_id, identity, shared)


async def _find(job_id: str, identity: Identity, shared: AppState) -> QueuedJob:
    """Another tenant's job, a malformed id and one that never was give the same answer."""
    if not _ULID.fullmatch(job_id):
        raise not_found()
    return await shared.run(shared.queue.get, job_id, identity.sees)


ReadJob = Annotated[QueuedJob, Depends(readable)]
ChangeJob = Annotated[QueuedJob, Depends(changeable)]
