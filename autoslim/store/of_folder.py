"""The store of a search's output folder, for commands that only read it."""

from __future__ import annotations

from pathlib import Path

from autoslim.core.job import SearchJob
from autoslim.core.urls import default_url, sqlite_file
from autoslim.errors import OutputError
from autoslim.store.store import Store


def store_of(root: Path, job: SearchJob) -> Store:
    """The store that the job names, or the one in its output folder `root`.

    Raises:
        OutputError: where neither is there. Opening it would make an empty one.
    """
    if job.storage is None and not (sqlite_file(default_url(root)) or Path()).is_file():
        raise OutputError(
            f"{root} has no store of its own, as the folders of a service's jobs have none; "
            f"allowed: a search's --output. Of a service's job, `autoslim show {job.id}` and `autoslim pull {job.id}` say more"
        )
    return Store(job.storage or default_url(root))
