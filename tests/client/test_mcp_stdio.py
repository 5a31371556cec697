"""`autoslim mcp` as a program that a client starts."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from helpers.marks import CI_ONLY
from helpers.running_service import running, settings_in

mcp = pytest.importorskip("mcp")
pytestmark = CI_ONLY


def test_a_client_starts_it_and_lists_jobs(tmp_path: Path) -> None:
    with running(settings_in(tmp_path)) as service:
        key = service.key(tenant="me")
        job = service.put("me", name="tulips")
        environment = {**os.environ, "AUTOSLIM_URL": service.url, "AUTOSLIM_KEY": key}
        program = mcp.StdioServerParameters(
            command=sys.executable, args=["-m", "autoslim.cli", "mcp", "--read-only"], env=environment
        )

        async def ask() -> tuple[set[str], list[str]]:
            async with mcp.Client(program) as session:
                tools = {tool.name for tool in (await session.list_tools()).tools}
                found = await session.call_tool("list_jobs", {"name": "tulips"})
                return tools, [each["id"] for each in found.structured_content["jobs"]]

        tools, found = asyncio.run(ask())
    assert "submit_job" not in tools
    assert found == [job.id]
