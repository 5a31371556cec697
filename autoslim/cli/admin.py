"""`autoslim admin`: who may use the service without a key, and what it keeps. The operator's, on the service's own database."""

from __future__ import annotations

import json as json_format
import sys
from typing import Annotated

import typer

from autoslim.cli import garbage
from autoslim.cli.flags import Json
from autoslim.cli.serve import ConfigFile, Root, ServiceStorage, settings_of
from autoslim.core.extras import needs_extra
from autoslim.errors import RequestError

app = typer.Typer(
    help="Open or close the service, or make room. Needs access to its database.\n\nExample: autoslim admin access",
    no_args_is_help=True,
)

_needs_service = needs_extra("service", "autoslim admin")


@app.command()
@_needs_service
def access(config: ConfigFile = None, root: Root = None, storage: ServiceStorage = None, json: Json = False) -> None:
    """Say whether the service is open or closed.

    Example: autoslim admin access
    """
    from autoslim.service.serve import describe_access
    from autoslim.store import Keys

    settings = settings_of(config, root=root, storage=storage)
    if not json:
        sys.stdout.write(f"{describe_access(settings)}\n")
        return
    with Keys(settings.storage) as keys:
        sys.stdout.write(json_format.dumps({"access": keys.access(), "usable_keys": keys.count_usable()}) + "\n")


@app.command(name="open")
@_needs_service
def open_service(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigFile = None,
    root: Root = None,
    storage: ServiceStorage = None,
) -> None:
    """Let callers on this machine use the service without a key.

    Example: autoslim admin open --yes

    Whoever reaches the service on this machine, other users of the machine included, can then read, submit, cancel and delete the jobs of
    the tenant `local`. Jobs of other tenants stay closed to them. Keys have to be revoked first; the next key closes the service again.
    """
    from autoslim.service.auth import LOCAL_TENANT
    from autoslim.store import Access, Keys, Queue

    settings = settings_of(config, root=root, storage=storage)
    with Queue(settings.storage) as queue:
        jobs = sum(queue.counts(LOCAL_TENANT).values())
    _confirm(
        "Everyone who can reach the service's address on this machine will read, submit, cancel and delete jobs of the tenant "
        f"{LOCAL_TENANT!r} without a key ({jobs} now)",
        yes=yes,
    )
    with Keys(settings.storage) as keys:
        keys.set_access(Access.OPEN)
    sys.stderr.write("the service is open; `autoslim keys create` or `autoslim admin close` closes it\n")


@app.command(name="close")
@_needs_service
def close_service(config: ConfigFile = None, root: Root = None, storage: ServiceStorage = None) -> None:
    """Refuse requests without a key, from now on.

    Example: autoslim admin close
    """
    from autoslim.store import Access, Keys

    with Keys(settings_of(config, root=root, storage=storage).storage) as keys:
        keys.set_access(Access.CLOSED)
        usable = keys.count_usable()
    hint = "" if usable else "; no key may be used now, create one with `autoslim keys create`"
    sys.stderr.write(f"the service is closed: every request needs an API key{hint}\n")


@app.command()
@_needs_service
def gc(
    caches: Annotated[
        str, typer.Option(help="Age of files in your cache folder, since they were used last.", metavar="AGE")
    ] = garbage.CACHES,
    checkpoints: Annotated[
        str,
        typer.Option(
            help="Time since a job ended, for its checkpoints and caches; without them it is not reused.", metavar="AGE"
        ),
    ] = garbage.CHECKPOINTS,
    jobs: Annotated[
        str, typer.Option(help="Time since a job ended, for the job with its models, trials and events.", metavar="AGE")
    ] = garbage.JOBS,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, nothing is deleted.")] = False,
    config: ConfigFile = None,
    root: Root = None,
    storage: ServiceStorage = None,
    json: Json = False,
) -> None:
    """Show what is old enough to be deleted, and how much that frees.

    Example: autoslim admin gc

    Example: autoslim admin gc --caches 14d --checkpoints 3d --jobs 26w --yes

    An AGE is such as 12h, 30d or 26w, or `never`. What a running or queued job uses stays, and so do files of other users.
    """
    settings = settings_of(config, root=root, storage=storage)
    ages = garbage.Ages.parse(caches=caches, checkpoints=checkpoints, jobs=jobs)
    garbage.collect(settings, ages, yes=yes, as_json=json)


def _confirm(consequence: str, *, yes: bool) -> None:
    """Asks on a terminal. Raises RequestError elsewhere without `yes`."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise RequestError(f"{consequence}. To do that: autoslim admin open --yes")
    typer.confirm(f"{consequence}. Open it?", abort=True, err=True)
