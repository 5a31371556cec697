"""`autoslim mcp`: the service's tools for programs that speak the Model Context Protocol."""

from __future__ import annotations

from typing import Annotated

import typer

from autoslim.cli.remote import Url


def mcp(
    read_only: Annotated[bool, typer.Option("--read-only", help="Leave out the tools that submit and cancel jobs.")] = False,
    url: Url = None,
) -> None:
    """Offer the service as tools of the Model Context Protocol, on standard input and output.

    Example: autoslim mcp --read-only

    A program such as an editor or an assistant starts it; the address and the key are those of all commands on a service.
    """
    from autoslim.mcp.server import serve_stdio

    serve_stdio(url, read_only=read_only)
