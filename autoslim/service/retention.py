"""What of ended jobs is deleted: a job with everything, on request or with age, and before that what only a running search needs."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from autoslim.core.pid_namespace import pid_namespace
from autoslim.core.removal import are_own, remove_within, tree_stats
from autoslim.core.run_folder import RunFolder
from autoslim.service.settings import ServiceSettings
from autoslim.store import Queue, QueuedJob, QueueState

_PAGE = 500
_ENDED = [state for state in QueueState if state.ended]
_UNFINISHED = [state for state in QueueState if not state.ended]
_FOREIGN_SECONDS = 86_400.0
"""After a job's end: a supervisor of another machine kills the job's last driver within a minute and then deletes its record. A record of
there that is as old as this has no supervisor any more: its machine, container or boot is gone."""


class Kind(enum.StrEnum):
    """`checkpoints`: the folders of a job's trials and of its cache, without which it cannot be reused. `jobs`: rows and files."""

    CHECKPOINTS = "checkpoints"
    JOBS = "jobs"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpiredJob:
    """`paths` are deleted; `age` is in seconds since the job ended; `found` are the files and folders beneath the paths."""

    kind: Kind
    job: QueuedJob
    paths: tuple[Path, ...]
    age: float
    found: tuple[os.stat_result, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeptJob:
    """A job that is old enough, and why it stays."""

    job: QueuedJob
    reason: str


def find_expired(
    settings: ServiceSettings, queue: Queue, *, checkpoints: float | None, jobs: float | None, now: datetime.datetime
) -> tuple[list[ExpiredJob], list[KeptJob]]:
    """Jobs that ended more than `jobs` seconds before `now`, and of the others those whose checkpoints are `checkpoints` seconds old.

    None stands for no end: nothing of this kind expires.

    Raises:
        OSError: for a job's folder that cannot be read.
    """
    expired, kept, reusers = list[ExpiredJob](), list[KeptJob](), _reusers(queue)
    for job in _every(queue, _ENDED):
        assert job.ended_at is not None, "a job that has ended without a time"
        age = (now - datetime.datetime.fromisoformat(job.ended_at)).total_seconds()
        paths: tuple[Path, ...]
        if jobs is not None and age > jobs:
            kind, paths = Kind.JOBS, (settings.folder(job.id),)
        elif checkpoints is not None and age > checkpoints:
            kind, paths = Kind.CHECKPOINTS, _checkpoints(settings.folder(job.id))
        else:
            continue
        if not paths:
            # They were deleted before.
            continue
        found = tuple(each for path in paths for each in tree_stats(path))
        reason = _reason_to_keep(settings, job, found, reusers, age=age)
        if reason is not None:
            kept.append(KeptJob(job=job, reason=reason))
        else:
            expired.append(ExpiredJob(kind=kind, job=job, paths=paths, age=age, found=found))
    return expired, kept


def remove_expired(settings: ServiceSettings, queue: Queue, expired: ExpiredJob) -> KeptJob | None:
    """Returns the job where it has come into use since it was found, and stays.

    Raises:
        OSError: for what cannot be deleted; a later try goes on.
        NotFoundError: where somebody else has deleted the job meanwhile.
    """
    reason = _reason_to_keep(settings, expired.job, expired.found, _reusers(queue), age=expired.age)
    if reason is not None:
        return KeptJob(job=expired.job, reason=reason)
    # First: once the queue does not have the job, nothing would lead to them.
    for record in _records(settings, expired.job):
        record.unlink(missing_ok=True)
    if expired.kind is Kind.JOBS:
        remove_job(settings, queue, expired.job.id)
    else:
        for path in expired.paths:
            remove_within(path, settings.folder(expired.job.id))
    return None


def remove_job(settings: ServiceSettings, queue: Queue, job_id: str) -> None:
    """An ended job with its files, trials and events. Files first: what is interrupted is done again as long as the queue has the job.

    Raises:
        RequestError: for a job that has not ended.
        OSError: for files that cannot be deleted.
    """
    folder = settings.folder(job_id)
    if folder.is_dir() and not folder.is_symlink():
        remove_within(folder, folder.parent)
    queue.purge(job_id)


def _checkpoints(folder: Path) -> tuple[Path, ...]:
    run = RunFolder(folder)
    return tuple(path for path in (run.trials, run.cache) if path.is_dir() and not path.is_symlink())


def _reason_to_keep(
    settings: ServiceSettings, job: QueuedJob, found: Collection[os.stat_result], reusers: _Reusers, *, age: float
) -> str | None:
    folder = settings.folder(job.id)
    if (reuser := reusers.of(job)) is not None:
        return f"job {reuser} reuses it and has not ended"
    # The supervisor deletes the record of a driver of its own machine and boot once the process is gone.
    foreign = [_is_foreign(record) for record in _records(settings, job)]
    if not all(foreign):
        return "its driver has not ended, or no supervisor has run since"
    if foreign and age <= _FOREIGN_SECONDS:
        return "its driver ran on another machine or before a restart, and is waited for until a day after the job's end"
    if folder.is_symlink():
        return f"{folder} is a link"
    return None if are_own(found) else "it has files of other users"


def _records(settings: ServiceSettings, job: QueuedJob) -> list[Path]:
    """Of the job's drivers, which supervisors without a Ray cluster write."""
    return sorted((settings.root / "drivers").glob(f"{job.id}-a*.json"))


def _is_foreign(record: Path) -> bool:
    """Whether it names a process of another machine, container or boot, or none: no supervisor of here deletes it."""
    try:
        return bool(json.loads(record.read_text())["space"] != pid_namespace())
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return True


@dataclasses.dataclass(frozen=True)
class _Reusers:
    """The unfinished jobs that read earlier ones' trials and models: by the earlier job's id, and by tenant those that read all."""

    by_job: dict[str, str]
    by_tenant: dict[str, str]

    def of(self, job: QueuedJob) -> str | None:
        everything = self.by_tenant.get(job.tenant) if job.state is QueueState.SUCCEEDED else None
        return self.by_job.get(job.id) or everything


def _reusers(queue: Queue) -> _Reusers:
    reusers = _Reusers({}, {})
    for job in _every(queue, _UNFINISHED):
        for source in json.loads(job.spec).get("reuse") or ():
            if source == "all":
                reusers.by_tenant[job.tenant] = job.id
            else:
                reusers.by_job[source] = job.id
    return reusers


def _every(queue: Queue, states: Collection[QueueState]) -> Iterator[QueuedJob]:
    """Of all tenants, page by page."""
    before = None
    while page := queue.list(states=states, limit=_PAGE, before=before):
        yield from page
        before = page[-1].id
