"""`autoslim admin gc`: what would be deleted and how much that frees, and with `--yes` its deletion."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from autoslim.cli.table import columns
from autoslim.core.duration import format_duration, parse_duration
from autoslim.core.removal import disk_bytes, freed_bytes
from autoslim.errors import NotFoundError, OutputError, RequestError

if TYPE_CHECKING:
    from autoslim.data.unused_cache import UnusedFiles
    from autoslim.service.retention import ExpiredJob
    from autoslim.service.settings import ServiceSettings
    from autoslim.store import Queue

NEVER = "never"
CACHES, CHECKPOINTS, JOBS = "30d", "7d", NEVER
"""Ages from which something is deleted. A job has models, so that it is deleted on request only."""

_LEAST_SECONDS = 3600.0
"""Beneath it, a driver that is about to end may still write, and a search that is about to start has not linked its images yet."""


@dataclasses.dataclass(frozen=True)
class Ages:
    """In seconds; None keeps everything of the kind."""

    caches: float | None
    checkpoints: float | None
    jobs: float | None

    @classmethod
    def parse(cls, **texts: str) -> Ages:
        """Raises RequestError, naming the flag."""
        return cls(**{name: _age(f"--{name}", text) for name, text in texts.items()})


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Row:
    """`age` is in seconds, `found` what lies there."""

    kind: str
    name: str
    age: float
    found: tuple[os.stat_result, ...]

    @classmethod
    def of_job(cls, expired: ExpiredJob) -> _Row:
        job = expired.job
        name = f"{job.id} ({job.name})" if job.name else job.id
        return cls(kind=expired.kind.value, name=name, age=expired.age, found=expired.found)

    @classmethod
    def of_cache(cls, unused: UnusedFiles) -> _Row:
        return cls(kind="caches", name=str(unused.folder), age=unused.age, found=unused.found)

    def to_dict(self) -> dict[str, object]:
        return {"kind": self.kind, "name": self.name, "age_seconds": round(self.age), "bytes": disk_bytes(self.found)}


def collect(settings: ServiceSettings, ages: Ages, *, yes: bool, as_json: bool) -> None:
    """Raises OutputError for what cannot be read or deleted; what was deleted before that is gone, and the rest is left."""
    from autoslim.data.unused_cache import unused_files
    from autoslim.service.retention import find_expired
    from autoslim.store import Queue

    with Queue(settings.storage) as queue, _told():
        caches = [] if ages.caches is None else unused_files(ages.caches)
        now = datetime.datetime.now(datetime.UTC)
        jobs, kept = find_expired(settings, queue, checkpoints=ages.checkpoints, jobs=ages.jobs, now=now)
        rows = [*map(_Row.of_job, jobs), *(_Row.of_cache(unused) for unused in caches if unused.files)]
        reasons = {job.job.id: job.reason for job in kept} | _kept(caches)
        if yes:
            reasons |= _remove(settings, queue, jobs, caches)
    if as_json:
        whole = [each for row in rows for each in row.found]
        sizes = {"bytes": disk_bytes(whole), "freed_bytes": freed_bytes(whole)}
        sys.stdout.write(json.dumps({"deleted": yes, **sizes, "items": [row.to_dict() for row in rows], "kept": reasons}) + "\n")
        return
    _print(rows, reasons, deleted=yes)


def _remove(settings: ServiceSettings, queue: Queue, jobs: list[ExpiredJob], caches: list[UnusedFiles]) -> dict[str, str]:
    """Returns why jobs stay that came into use meanwhile."""
    from autoslim.service.retention import remove_expired

    stay = dict[str, str]()
    for expired in jobs:
        # Somebody else may have deleted the job in between.
        with contextlib.suppress(NotFoundError):
            if (kept := remove_expired(settings, queue, expired)) is not None:
                stay[kept.job.id] = kept.reason
    for unused in caches:
        unused.remove()
    return stay


def _kept(caches: list[UnusedFiles]) -> dict[str, str]:
    foreign = {str(unused.folder): f"{unused.foreign} files belong to other users" for unused in caches if unused.foreign}
    return foreign | {str(folder): "a search works in it" for unused in caches for folder in unused.busy}


def _print(rows: list[_Row], reasons: dict[str, str], *, deleted: bool) -> None:
    if rows:
        cells = [(row.kind, row.name, format_duration(row.age), _size(disk_bytes(row.found))) for row in rows]
        sys.stdout.write("\n".join(columns([("KIND", "WHAT", "AGE", "SIZE"), *cells], header=True)) + "\n")
    for name, reason in reasons.items():
        sys.stderr.write(f"kept: {name}: {reason}\n")
    whole = [each for row in rows for each in row.found]
    freed = _size(freed_bytes(whole))
    if not rows:
        sys.stderr.write("nothing is old enough\n")
    elif deleted:
        sys.stderr.write(f"deleted; {freed} freed\n")
    else:
        sys.stderr.write(f"nothing was deleted; --yes deletes this and frees {freed}\n")


def _size(bytes: int) -> str:
    for unit, length in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if bytes >= length:
            return f"{bytes / length:.1f} {unit}"
    return f"{bytes} B"


def _age(flag: str, text: str) -> float | None:
    if text == NEVER:
        return None
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise RequestError(f"{flag} {error}, or {NEVER}") from error
    if seconds < _LEAST_SECONDS:
        raise RequestError(f"{flag} is {text!r}; allowed: {format_duration(_LEAST_SECONDS)} and more, or {NEVER}")
    return seconds


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = Path(error.filename) if error.filename else "a file"
        raise OutputError(f"{place} cannot be deleted: {error.strerror}; what was not deleted yet is left as it is") from error
