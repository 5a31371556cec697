"""`autoslim jobs`, `show`, `attach`, `logs`, `cancel` and `pull`: the service's jobs."""

from __future__ import annotations

import contextlib
import itertools
import json as json_format
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from autoslim.cli import job_table, watch
from autoslim.cli.flags import Json
from autoslim.cli.remote import JobName, Url, connect, find_job, find_running_job
from autoslim.cli.submit import show_job
from autoslim.cli.table import STATE_STYLES
from autoslim.errors import RequestError


def jobs(
    state: Annotated[list[str] | None, typer.Option(help="Only jobs in this state; may be repeated.", show_default=False)] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs of this name.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of jobs, the newest first.")] = 20,
    url: Url = None,
    json: Json = False,
) -> None:
    """List jobs, the newest first.

    Example: autoslim jobs --state SEARCHING --state QUEUED
    """
    states = [text.upper() for text in state or []]
    if unknown := [text for text in states if text not in STATE_STYLES]:
        raise RequestError(f"--state is {unknown[0]!r}; allowed: {', '.join(STATE_STYLES)}")
    with connect(url) as client:
        found = [job.info for job in itertools.islice(client.jobs(state=states, label=name, page_size=min(limit, 200)), limit)]
    if json:
        sys.stdout.write(json_format.dumps([job.model_dump(mode="json") for job in found]) + "\n")
    elif found:
        sys.stdout.write("\n".join(job_table.table(found)) + "\n")
    else:
        sys.stderr.write("no jobs; submit one with: autoslim submit job.yaml\n")


def show(
    job: JobName = None,
    trials: Annotated[bool, typer.Option("--trials", help="List its trials.")] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Show the state of a job and the next commands.

    Example: autoslim show flowers --trials
    """
    with connect(url) as client:
        found = find_job(client, job)
        if not trials:
            show_job(found.info, as_json=json)
            return
        rows = found.trials()
    if json:
        sys.stdout.write(json_format.dumps([trial.model_dump(mode="json") for trial in rows]) + "\n")
    else:
        images = None if found.info.result is None else found.info.result.images.get("validation")
        sys.stdout.write("\n".join(job_table.trials(rows, job_table.score_of(found.info), images=images)) + "\n")


def attach(job: JobName = None, url: Url = None, json: Json = False) -> None:
    """Follow a job until it ends and show its models; the exit code says how it ended. Ctrl-C detaches; the job continues.

    Example: autoslim attach flowers
    """
    with connect(url) as client:
        found = find_job(client, job)
        sys.stderr.write(f"Job {found.id}  {job_table.state(found.info)}\n")
        end = watch.follow(found)
    show_job(end, as_json=json)
    raise typer.Exit(watch.exit_code(end))


def logs(
    job: JobName = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Continue until the job ends. Ctrl-C leaves it running.")
    ] = False,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="Number of the attempt. Default: the last.", show_default=False)
    ] = None,
    url: Url = None,
    json: Annotated[bool, typer.Option("--json", help="Events and messages as JSON, one object per line.")] = False,
) -> None:
    """Print the log of a job's driver.

    Example: autoslim logs -f flowers
    """
    from autoslim.client import NotFoundError

    with connect(url) as client:
        found = find_job(client, job)
        try:
            for text in found.logs(attempt=attempt, follow=follow, as_json=json):
                sys.stdout.write(text)
                sys.stdout.flush()
        except NotFoundError:
            which = "a log yet" if attempt is None else f"an attempt {attempt} with a log"
            raise RequestError(f"job {found.id} does not have {which}; it is {found.state}") from None
        except KeyboardInterrupt:
            sys.stderr.write(f"\nDetached; the job continues.  {job_table.next_commands(found.info)}\n")
            raise typer.Exit(watch.EXIT_INTERRUPTED) from None


def cancel(
    job: Annotated[str, typer.Argument(metavar="JOB", help="Id of the job, the start of the id, or the job's name.")],
    url: Url = None,
    json: Json = False,
) -> None:
    """Ask a job to stop. Finished trials are kept; a second request changes nothing.

    Example: autoslim cancel flowers
    """
    with connect(url) as client:
        found = find_running_job(client, job)
        ended = found.info.ended
        found.cancel()
    if ended:
        sys.stderr.write(f"Job {found.id} had ended already\n")
    elif not found.info.ended:
        sys.stderr.write(f"Job {found.id} is stopping; follow it with: autoslim attach {found.id}\n")
    sys.stdout.write((found.info.model_dump_json(by_alias=True) if json else f"{found.id} {found.state}") + "\n")


def pull(
    job: JobName = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder to write. Default: the job's name or id, in the current folder.", show_default=False
        ),
    ] = None,
    budget: Annotated[str | None, typer.Option(help="Only the model of this budget.", show_default=False)] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Download a job's models, check every file, and print the folder.

    Example: autoslim pull flowers --budget 50% -o flowers-slim
    """
    with connect(url) as client:
        found = find_job(client, job)
        folder = output or Path(found.info.name or found.id)
        with _progress(f"Job {found.id}") as progress:
            folder = found.pull(folder, budget=budget, progress=progress)
    files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    sys.stdout.write(
        (json_format.dumps({"job": found.id, "folder": str(folder), "files": files}) if json else str(folder)) + "\n"
    )


@contextlib.contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    bar = (TextColumn(title), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*bar, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("", total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
