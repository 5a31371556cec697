"""The earlier searches that `--reuse` names: output folders, ids in the job's store, or all of that store."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from autoslim.core.job import SearchJob
from autoslim.core.result import TrialResult
from autoslim.core.run_folder import RunFolder
from autoslim.core.urls import default_url
from autoslim.errors import OutputError, RequestError
from autoslim.store import Store, StoredJob

ALL = "all"
"""Names every search in the job's store."""


@dataclasses.dataclass(frozen=True)
class EarlierSearch:
    """A search and its trials; `root` is its output folder."""

    stored: StoredJob
    root: Path
    results: list[TrialResult]


def earlier_searches(job: SearchJob, store: Store | None) -> Iterator[EarlierSearch]:
    """Those that `job.reuse` names, each once, in that order, and never the job itself. `store` is the job's own, where it has one.

    Raises:
        RequestError: there is no such search.
    """
    seen = {job.id}
    for source in job.reuse:
        for earlier in _in_folder(source, job, store) if "/" in source else _in_store(source, store):
            if earlier.stored.job.id not in seen:
                seen.add(earlier.stored.job.id)
                yield earlier


def _in_folder(source: str, job: SearchJob, store: Store | None) -> Iterator[EarlierSearch]:
    output = RunFolder(Path(source))
    try:
        found = output.read_job()
    except OutputError as error:
        raise RequestError(f"--reuse {source}: {error}") from error
    if found.storage is not None:
        # The folder may come from someone else: it must not decide to which database this process connects.
        if store is None or found.storage != job.storage:
            raise RequestError(
                f"--reuse {source}: its trials are in another store than this search's; allowed: the same --storage for both"
            )
        yield EarlierSearch(store.job(found.id), output.root, store.trials(found.id))
        return
    if not (output.root / "autoslim.db").is_file():
        raise RequestError(f"--reuse {source}: it has no autoslim.db with its trials")
    with Store(default_url(output.root)) as own:
        yield EarlierSearch(own.job(found.id), output.root, own.trials(found.id))


def _in_store(source: str, store: Store | None) -> Iterator[EarlierSearch]:
    if store is None:
        raise RequestError(f"--reuse {source} names a search in --storage, and none is given; allowed: a folder, with a / in it")
    for stored in store.jobs() if source == ALL else [store.job(source)]:
        yield EarlierSearch(stored, Path(stored.job.output), store.trials(stored.job.id))
