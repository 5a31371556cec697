"""A job's artifacts and logs as files."""

from __future__ import annotations

import dataclasses
import enum
import os
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from autoslim.service import files
from autoslim.service.app_state import AppState, State
from autoslim.service.byte_ranges import range_response
from autoslim.service.problems import not_found, problem_responses
from autoslim.service.routers.dependencies import ReadableJob
from autoslim.service.schemas import ArtifactList, ArtifactResponse

router = APIRouter(tags=["files"])


class LogFormat(enum.StrEnum):
    TEXT = "text"
    JSONL = "jsonl"


_LOGS = {
    LogFormat.TEXT: (".log", "text/plain; charset=utf-8"),
    LogFormat.JSONL: (".jsonl", "application/x-ndjson"),
}
"""File suffix and media type by format."""

_BYTES = {"schema": {"type": "string", "format": "binary"}}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole file.", "content": {"*/*": _BYTES}},
    206: {"description": "The requested range.", "content": {"*/*": _BYTES}},
    304: {"description": "Unchanged"},
    **problem_responses(404, 416, 422),
}


@router.get("/v1/jobs/{job_id:job}/artifacts", responses=problem_responses(404))
async def artifacts(job: ReadableJob, state: State) -> ArtifactList:
    """Lists the models by budget, the front and the trials; empty until there are any."""
    found = await state.run_sync(files.list_artifacts, state.settings.folder(job.id))
    return ArtifactList(artifacts=[ArtifactResponse(**dataclasses.asdict(artifact)) for artifact in found])


@router.get("/v1/jobs/{job_id:job}/artifacts/{name:path}", response_class=Response, responses=_FILE)
async def artifact(request: Request, name: str, job: ReadableJob, state: State) -> Response:
    """Downloads an artifact by its listed name; with Range a part of it."""
    descriptor, digest = await state.run_sync(_open_listed, state.settings.folder(job.id), name)
    return range_response(
        request, descriptor, media_type=files.media_type(name), etag=f'"{digest}"', download=name.rpartition("/")[2]
    )


@router.get("/v1/jobs/{job_id:job}/logs", response_class=Response, responses=_FILE)
async def logs(
    request: Request,
    job: ReadableJob,
    state: State,
    attempt: Annotated[int | None, Query(ge=1, le=999_999, description="Default: the last attempt.")] = None,
    format: Annotated[LogFormat, Query(description="Plain text, or one JSON object per line.")] = LogFormat.TEXT,
) -> Response:
    """Downloads the log of the job's driver; `Range: bytes=-65536` gives its end."""
    descriptor, etag = await state.run_sync(_open_log, state, job.id, attempt, format)
    return range_response(request, descriptor, media_type=_LOGS[format][1], etag=etag)


def _open_listed(folder: Path, name: str) -> tuple[int, str]:
    if name not in files.artifact_names(folder):
        raise not_found("file")
    descriptor = _open(folder, name)
    return descriptor, files.digest(descriptor)


def _open_log(state: AppState, job_id: str, attempt: int | None, format: LogFormat) -> tuple[int, str]:
    folder = state.settings.folder(job_id)
    name = files.find_log(folder, attempt, suffix=_LOGS[format][0])
    if name is None:
        raise not_found("log")
    descriptor = _open(folder, name)
    found = os.fstat(descriptor)
    # Weak, and of the file's state instead of its bytes: a log grows, and hashing it at every request would read all of it.
    return descriptor, f'W/"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"'


def _open(folder: Path, name: str) -> int:
    try:
        return files.open_beneath(folder, name)
    except OSError:
        raise not_found("file") from None
