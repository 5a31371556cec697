"""What a job hands over, and its logs, as files."""

from __future__ import annotations

import dataclasses
import enum
import os
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from autoslim.service import files
from autoslim.service.app_state import AppState
from autoslim.service.auth import Shared
from autoslim.service.byte_ranges import file_answer
from autoslim.service.problems import documented, not_found
from autoslim.service.routers.dependencies import ReadJob
from autoslim.service.schemas import ArtifactList, ArtifactView

router = APIRouter(tags=["files"])


class LogFormat(enum.StrEnum):
    TEXT = "text"
    JSONL = "jsonl"


_LOGS = {
    LogFormat.TEXT: (".log", "text/plain; charset=utf-8"),
    LogFormat.JSONL: (".jsonl", "application/x-ndjson"),
}
"""The file's suffix and its media type."""

_BYTES = {"schema": {"type": "string", "format": "binary"}}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole file.", "content": {"*/*": _BYTES}},
    206: {"description": "The range that was asked for.", "content": {"*/*": _BYTES}},
    304: {"description": "Unchanged"},
    **documented(404, 416, 422),
}


@router.get("/v1/jobs/{job_id:job}/artifacts", responses=documented(404))
async def artifacts(job: ReadJob, shared: Shared) -> ArtifactList:
    """Models by budget, the front, the trials; empty until there are some."""
    found = await shared.run(files.artifacts, shared.settings.folder(job.id))
    return ArtifactList(artifacts=[ArtifactView(**dataclasses.asdict(artifact)) for artifact in found])


@router.get("/v1/jobs/{job_id:job}/artifacts/{name:path}", response_class=Response, responses=_FILE)
async def artifact(request: Request, name: str, job: ReadJob, shared: Shared) -> Response:
    """By a name of the list; with Range a part of it."""
    descriptor, digest = await shared.run(_open_listed, shared.settings.folder(job.id), name)
    return file_answer(
        request, descriptor, media_type=files.media_type(name), etag=f'"{digest}"', download=name.rpartition("/")[2]
    )


@router.get("/v1/jobs/{job_id:job}/logs", response_class=Response, responses=_FILE)
async def logs(
    request: Request,
    job: ReadJob,
    shared: Shared,
    attempt: Annotated[int | None, Query(ge=1, le=999_999, description="Default the last one.")] = None,
    format: Annotated[LogFormat, Query(description="For people, or events and messages as JSON, one a line.")] = LogFormat.TEXT,
) -> Response:
    """What the job's driver wrote; with `Range: bytes=-65536` its end."""
    descriptor, etag = await shared.run(_open_log, shared, job.id, attempt, format)
    return file_answer(request, descriptor, media_type=_LOGS[format][1], etag=etag)


def _open_listed(folder: Path, name: str) -> tuple[int, str]:
    if name not in files.artifact_names(folder):
        raise not_found("file")
    descriptor = _open(folder, name)
    return descriptor, files.digest(descriptor)


def _open_log(shared: AppState, job_id: str, attempt: int | None, format: LogFormat) -> tuple[int, str]:
    folder = shared.settings.folder(job_id)
    name = files.log_name(folder, attempt, suffix=_LOGS[format][0])
    if name is None:
        raise not_found("log")
    descriptor = _open(folder, name)
    found = os.fstat(descriptor)
    # A log grows, so that its tag is of its state and not of its bytes.
    return descriptor, f'W/"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"'


def _open(folder: Path, name: str) -> int:
    try:
        return files.open_inside(folder, name)
    except OSError:
        raise not_found("file") from None
