"""A job's files as the API lists them."""

from __future__ import annotations

from pydantic import BaseModel


class ArtifactResponse(BaseModel):
    """`name` is the path beneath the job's artifacts, `bytes` the size, `sha256` hexadecimal."""

    name: str
    bytes: int
    sha256: str
    media_type: str


class ArtifactList(BaseModel):
    """All files of a job, by name."""

    artifacts: list[ArtifactResponse]
