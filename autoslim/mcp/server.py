"""The server of the Model Context Protocol: which tools there are, what clients may assume of each, and how errors are told."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from importlib import metadata
from typing import Any

from autoslim.core.extras import needs_extra
from autoslim.errors import AutoslimError

with needs_extra("mcp", "autoslim mcp"):
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.types import ToolAnnotations

    from autoslim.client import AsyncClient
    from autoslim.mcp.tools import ServiceTools

Tool = Callable[..., Awaitable[dict[str, Any]]]

_INSTRUCTIONS = (
    "autoslim slims vision transformers within FLOPs budgets. Plan a job before it is submitted; a job runs for minutes to hours, and "
    "get_job follows it. Accuracies are shares, FLOPs are multiply-accumulates per image."
)
_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_SUBMITS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False)
_CANCELS = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)


def create_server(client: AsyncClient, *, read_only: bool = False) -> MCPServer[Any]:
    """`read_only` leaves out what submits and cancels."""
    server: MCPServer[Any] = MCPServer(
        "autoslim", instructions=_INSTRUCTIONS, version=metadata.version("autoslim"), log_level="WARNING"
    )
    tools = ServiceTools(client)
    reading: tuple[Tool, ...] = (
        *(tools.list_methods_and_models, tools.plan_job, tools.list_jobs),
        *(tools.get_job, tools.list_trials, tools.get_front),
    )
    for tool in reading:
        server.add_tool(_told(tool), annotations=_READS)
    if not read_only:
        server.add_tool(_told(tools.submit_job), annotations=_SUBMITS)
        server.add_tool(_told(tools.cancel_job), annotations=_CANCELS)
    return server


def _told(tool: Tool) -> Tool:
    """The tool, with errors as the SDK passes them on to the model; it hides the text of every other one."""

    @functools.wraps(tool)
    async def run(*args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            return await tool(*args, **kwargs)
        except AutoslimError as error:
            raise ToolError(str(error)) from error

    return run


def serve_stdio(url: str | None = None, *, read_only: bool = False) -> None:
    """Until standard input ends. The key is that of the client: AUTOSLIM_KEY, or the configuration file's."""
    create_server(AsyncClient(url), read_only=read_only).run("stdio")
