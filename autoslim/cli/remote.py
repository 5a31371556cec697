"""The connection to the service and the lookup of a job, for all commands that use the service."""

from __future__ import annotations

import difflib
import itertools
import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from autoslim.cli.job_table import ago
from autoslim.errors import RequestError

if TYPE_CHECKING:
    from autoslim.client import Client, Job

JobName = Annotated[
    str | None,
    typer.Argument(
        metavar="[JOB]",
        help="Id of the job, the start of the id, or the job's name. Default: the newest job.",
        show_default=False,
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        help="URL of the service. Default: AUTOSLIM_URL, that of the configuration file, or http://127.0.0.1:8400.",
        show_default=False,
    ),
]

_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_RECENT = 200
_SHOWN = 5
"""Jobs of one name that are listed."""


def connect(url: str | None) -> Client:
    """The key is never a flag: other users can read a command line."""
    from autoslim.client import Client

    return Client(url)


def find_job(client: Client, text: str | None) -> Job:
    """Of several jobs of one name the newest, which stderr then says. Raises RequestError naming the closest matches."""
    named = _named(client, text)
    if len(named) > 1:
        sys.stderr.write(f"{len(named)} jobs are named {text}: taken is the newest of {_listed(named)}\n")
    return named[0] if named else _find_by_id(client, text)


def find_running_job(client: Client, text: str) -> Job:
    """As `find_job`, for a command that ends it: of several jobs of one name the only one that has not ended.

    Raises:
        RequestError: where several have not ended, naming them, or no job matches.
    """
    running = [job for job in _named(client, text) if not job.info.ended]
    if len(running) > 1:
        raise RequestError(f"{len(running)} jobs are named {text} and have not ended; give the id of one: {_listed(running)}")
    return running[0] if running else find_job(client, text)


def _named(client: Client, text: str | None) -> list[Job]:
    """The recent jobs of this name, the newest first; none where it can be no name."""
    if text is None or not re.fullmatch(r"[a-z0-9-]{1,63}", text):
        return []
    return list(itertools.islice(client.jobs(label=text, page_size=_RECENT), _RECENT))


def _listed(jobs: list[Job]) -> str:
    shown = [f"{job.id} ({job.info.state}, submitted {ago(job.info.created_at)})" for job in jobs[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(jobs) - _SHOWN} more" if len(jobs) > _SHOWN else "")


def _find_by_id(client: Client, text: str | None) -> Job:
    if text is not None and _ULID.fullmatch(text):
        return _by_id(client, text)
    if text is None:
        newest = next(client.jobs(page_size=1), None)
        if newest is None:
            raise RequestError(f"there are no jobs at {client.address.url} yet; submit one with: autoslim submit job.yaml")
        return newest
    recent = list(itertools.islice(client.jobs(page_size=_RECENT), _RECENT))
    matching = [job for job in recent if job.id.startswith(text.upper())]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise RequestError(f"{len(matching)} job ids start with {text!r}: {', '.join(job.id for job in matching[:5])}")
    raise RequestError(_unknown(text, recent))


def _by_id(client: Client, job_id: str) -> Job:
    from autoslim.client import NotFoundError

    try:
        return client.job(job_id)
    except NotFoundError:
        raise NotFoundError(_unknown(job_id, list(itertools.islice(client.jobs(page_size=_RECENT), _RECENT)))) from None


def _unknown(text: str, recent: list[Job]) -> str:
    names = [name for job in recent for name in (job.info.name, job.id) if name]
    upper = {name.upper(): name for name in names}
    close = [upper[name] for name in difflib.get_close_matches(text.upper(), upper, n=3, cutoff=0.6)]
    if close:
        return f"there is no job {text!r}; did you mean {', '.join(close)}?"
    newest = ", ".join(job.info.name or job.id for job in recent[:5])
    return f"there is no job {text!r}; the newest are: {newest}" if recent else f"there is no job {text!r}, and no other either"
