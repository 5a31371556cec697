"""`autoslim serve` and `autoslim supervise`: the operator's side of the service."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoslim.cli import flags as flag
from autoslim.cli.parsing import CliInput, read_placement
from autoslim.config import TrialPlacement
from autoslim.core.folder_lock import mark_as_service_folder
from autoslim.core.private_files import make_private, write_privately
from autoslim.webhook.secret import read_secret

if TYPE_CHECKING:
    from autoslim.service.settings import ServiceSettings
    from autoslim.store import Queue

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="YAML file with settings; flags and AUTOSLIM_* variables override it.", show_default=False),
]
Root = Annotated[Path | None, typer.Option(help="Folder of all jobs. Default: ~/.local/share/autoslim.", show_default=False)]
ServiceStorage = Annotated[
    str | None, typer.Option("--storage", help="URL of the database. Default: SQLite in --root.", show_default=False)
]
Jobs = Annotated[int, flag.flag("--jobs", "Maximum number of jobs at a time.", min=1)]
Dashboard = Annotated[
    str | None,
    flag.flag(
        "--dashboard",
        "URL of the dashboard of a Ray cluster that runs the drivers as its jobs. Default: processes on this machine.",
    ),
]
Lease = Annotated[
    float | None,
    flag.flag(
        "--lease-seconds",
        "Seconds after which a job whose driver has not renewed its lease passes to another driver. Default: 60.",
    ),
]
Heartbeat = Annotated[
    Path | None,
    flag.flag(
        "--heartbeat", "File whose time of change is that of the last round, for probes: a supervisor that hangs leaves it."
    ),
]
Niceness = Annotated[
    int | None,
    flag.flag(
        "--niceness",
        "Added to the niceness of drivers on this machine and their trials, 0 to 19, so that the service answers while they train. "
        "Default: 10.",
    ),
]


def settings_of(config: Path | None, **flags: Any) -> ServiceSettings:
    """The service's settings. Creates its folder if it does not exist; what this process and its children write is their user's alone."""
    from autoslim.service.settings import read_settings

    settings = read_settings(config, flags=flags)
    write_privately()
    settings.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    mark_as_service_folder(settings.root)
    # Also the folders of an earlier version, which were open to other users. `jobs` is made private, too, because trials on
    # other nodes write there with their own umask.
    for folder in (settings.root, settings.root / "jobs"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        make_private(folder)
    return settings


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; any other than loopback needs API keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8400,
    config: ConfigFile = None,
    root: Root = None,
    storage: ServiceStorage = None,
    data_root: Annotated[
        list[Path] | None, typer.Option(help="Folder below which users may name data. May be repeated.", show_default=False)
    ] = None,
    model_root: Annotated[
        list[Path] | None,
        typer.Option(help="Folder below which users may name models and weights. May be repeated.", show_default=False),
    ] = None,
    tracking_uri: flag.TrackingUri = None,
    webhook_allow: Annotated[
        list[str] | None,
        typer.Option(
            help="Host, address or network that a job's --webhook may name; without one none. May be repeated.",
            metavar="HOST",
            show_default=False,
        ),
    ] = None,
    supervisor: Annotated[
        bool, typer.Option("--supervisor/--no-supervisor", help="Also run the jobs, unless another process does.")
    ] = True,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Let an open service be used from other machines and through proxies, without API keys."),
    ] = False,
) -> None:
    """Run the service: the API, and the supervisor that runs the jobs.

    Example: autoslim serve

    Example: autoslim serve --config service.yaml --host 0.0.0.0
    """
    from autoslim.service.serve import serve as run

    places = {"root": root, "storage": storage, "data_roots": data_root, "model_roots": model_root, "tracking_uri": tracking_uri}
    settings = settings_of(config, **places, webhook_allow=webhook_allow)
    if settings.webhook_allow:
        # The supervisor signs with it; without one jobs would be taken whose notifications nobody sends.
        read_secret()
    if supervisor:
        # Through the environment: other users can read a command line, and the storage may hold a password.
        os.environ |= {"AUTOSLIM_ROOT": str(settings.root), "AUTOSLIM_STORAGE": settings.storage}
        if settings.tracking_uri is not None:
            os.environ["AUTOSLIM_TRACKING_URI"] = settings.tracking_uri
        if settings.webhook_allow:
            os.environ["AUTOSLIM_WEBHOOK_ALLOW"] = ",".join(settings.webhook_allow)
    run(
        settings,
        host=host,
        port=port,
        insecure=insecure,
        command=[sys.executable, "-m", "autoslim.cli", "supervise", "--until-stdin-ends"] if supervisor else None,
        ready=lambda address, access: _print_address(address, access, settings),
    )


def _print_address(address: str, access: str, settings: ServiceSettings) -> None:
    sys.stderr.write(f"autoslim is at {address}; its jobs are in {settings.root}\nIt is {access}\n")
    sys.stdout.write(f"{address}\n")
    sys.stdout.flush()


@flag.with_flags(flag.placement_flags(TrialPlacement))
def supervise(
    context: typer.Context,
    config: ConfigFile = None,
    root: Root = None,
    storage: ServiceStorage = None,
    tracking_uri: flag.TrackingUri = None,
    jobs: Jobs = 1,
    dashboard: Dashboard = None,
    lease_seconds: Lease = None,
    niceness: Niceness = None,
    heartbeat: Heartbeat = None,
    until_stdin_ends: Annotated[
        bool,
        typer.Option(
            "--until-stdin-ends", help="Also stop when standard input ends, as it does with the process at its other end."
        ),
    ] = False,
) -> None:
    """Run queued jobs, without the API. Ctrl-C stops it; the next supervisor continues the jobs.

    Example: autoslim supervise --jobs 2

    Example: autoslim supervise --storage postgresql+psycopg://autoslim@db/autoslim --dashboard http://127.0.0.1:8265

    Of several supervisors of one root folder on a machine one runs the jobs; the others wait until it has ended.
    """
    from autoslim.core.logs import log_json
    from workers.service.settings import DriverSettings
    from workers.service.supervise import choose_executor
    from workers.service.supervise import supervise as run

    settings = settings_of(config, root=root, storage=storage, tracking_uri=tracking_uri)
    more = {name: value for name, value in {"lease_seconds": lease_seconds, "niceness": niceness}.items() if value is not None}
    service = {"storage": settings.storage, "root": settings.root.absolute(), "tracking_uri": settings.tracking_uri}
    driver_settings = read_placement(DriverSettings, CliInput.of(context), **service, **more)
    log_json()
    stdin = sys.stdin.fileno() if until_stdin_ends else None
    executor, beside = choose_executor(driver_settings, dashboard=dashboard), _webhooks(settings)
    run(driver_settings, executor, jobs=jobs, until_end_of=stdin, heartbeat=heartbeat, beside=beside)


def _webhooks(settings: ServiceSettings) -> Callable[[Queue], contextlib.AbstractContextManager[object]]:
    """What notifies the jobs' webhooks; nothing where the operator allows no host."""
    if not settings.webhook_allow:
        return contextlib.nullcontext
    from autoslim.service.public_text import PublicText
    from autoslim.webhook.addresses import AllowedHosts
    from workers.service.webhook_relay import WebhookRelay

    secret, allowed, public = read_secret(), AllowedHosts(settings.webhook_allow), PublicText(settings).within
    return lambda queue: WebhookRelay(queue, settings.root, secret, allowed=allowed, public=public)
