"""`autoslim keys`: the operator's, on the service's own database."""

from __future__ import annotations

import datetime
import json as json_format
import re
import sys
from typing import Annotated

import typer

from autoslim.cli.flags import Json
from autoslim.cli.serve import ConfigFile, Root, ServiceStorage, settings_of
from autoslim.cli.table import columns
from autoslim.core.duration import parse_duration
from autoslim.core.extras import needs_extra
from autoslim.errors import RequestError

app = typer.Typer(
    help="API keys of the service. Needs access to its database.\n\nExample: autoslim keys create --tenant vision",
    no_args_is_help=True,
)

_needs_service = needs_extra("service", "autoslim keys")


@app.command()
@_needs_service
def create(
    tenant: Annotated[str, typer.Option(help="Tenant whose jobs the key can access.")] = "local",
    scope: Annotated[
        list[str] | None,
        typer.Option(help="One of read, submit, admin. May be repeated. Default: read and submit.", show_default=False),
    ] = None,
    name: Annotated[str, typer.Option(help="What the key is for.")] = "key",
    expires: Annotated[
        str | None, typer.Option(help="Lifetime of the key, such as 12h, 90d or 4w. Default: no expiry.", show_default=False)
    ] = None,
    config: ConfigFile = None,
    root: Root = None,
    storage: ServiceStorage = None,
    json: Json = False,
) -> None:
    """Create a key and print it. It is shown only once: the database holds a digest.

    Example: autoslim keys create --tenant vision --scope read --scope submit --expires 90d

    From the first key on, every request needs one.
    """
    from autoslim.store import Keys

    with Keys(settings_of(config, root=root, storage=storage).storage) as keys:
        key, secret = keys.create(tenant=tenant, scopes=scope or ["read", "submit"], name=name, lifetime=_lifetime(expires))
    if json:
        sys.stdout.write(json_format.dumps({**key.to_dict(), "key": secret}) + "\n")
        return
    sys.stderr.write(
        f"key {key.id} of tenant {key.tenant}, {', '.join(key.scopes)}; it is shown this once.\n"
        "Use it as AUTOSLIM_KEY, or as `key` in ~/.config/autoslim/client.toml (mode 600)\n"
    )
    sys.stdout.write(secret + "\n")


@app.command(name="list")
@_needs_service
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only keys of this tenant.", show_default=False)] = None,
    config: ConfigFile = None,
    root: Root = None,
    storage: ServiceStorage = None,
    json: Json = False,
) -> None:
    """List the keys, without their secrets.

    Example: autoslim keys list --tenant vision
    """
    from autoslim.store import Keys

    with Keys(settings_of(config, root=root, storage=storage).storage) as keys:
        found = keys.list(tenant)
    if json:
        sys.stdout.write(json_format.dumps([key.to_dict() for key in found]) + "\n")
        return
    rows: list[tuple[str, ...]] = [("ID", "TENANT", "NAME", "SCOPES", "CREATED", "EXPIRES", "LAST USED", "REVOKED")]
    for key in found:
        dates = (key.created_at, key.expires_at, key.last_used_at, key.revoked_at)
        rows.append(
            (key.id, key.tenant, key.name, " ".join(key.scopes), *((date or "")[:16].replace("T", " ") for date in dates))
        )
    sys.stdout.write("\n".join(columns(rows, header=True)) + "\n")


@app.command()
@_needs_service
def revoke(
    key: Annotated[str, typer.Argument(metavar="ID", help="Id from `keys list`, or the key itself.")],
    config: ConfigFile = None,
    root: Root = None,
    storage: ServiceStorage = None,
) -> None:
    """Revoke a key; it is refused from now on.

    Example: autoslim keys revoke 4f1c9e2ab7d05563
    """
    from autoslim.store import Keys

    match = re.fullmatch(r"autoslim_([0-9a-f]+)_.*", key)
    with Keys(settings_of(config, root=root, storage=storage).storage) as keys:
        revoked, usable = keys.revoke(match[1] if match else key), keys.count_usable()
    sys.stderr.write(f"key {revoked.id} of tenant {revoked.tenant} is revoked\n")
    if not usable:
        sys.stderr.write(
            "No key is left that may be used, and the service stays closed: create one with `autoslim keys create`, or open the service "
            "with `autoslim admin open`\n"
        )


def _lifetime(text: str | None) -> datetime.timedelta | None:
    if text is None:
        return None
    try:
        return datetime.timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError) as error:
        raise RequestError(f"--expires {error}") from error
