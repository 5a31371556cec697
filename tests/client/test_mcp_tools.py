"""The service's tools as a client of the protocol sees them, over the SDK's in-memory connection to a running service."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from helpers.driven_job import DrivenJob
from helpers.marks import CI_ONLY
from helpers.running_service import SPEC, RunningService

from autoslim.client import AsyncClient
from autoslim.config import JobSpec

mcp = pytest.importorskip("mcp")
from autoslim.mcp.server import create_server  # noqa: E402

READING = {"list_methods_and_models", "plan_job", "list_jobs", "get_job", "list_trials", "get_front"}

pytestmark = CI_ONLY


class Tools:
    """Calls of one key; each is a connection of its own."""

    def __init__(self, url: str, key: str, *, read_only: bool = False) -> None:
        self._url, self._key, self._read_only = url, key, read_only

    def call(self, tool: str, /, **arguments: Any) -> Any:
        """What the tool returns; the text of an error, without what the SDK writes before it."""

        async def ask() -> Any:
            async with AsyncClient(self._url, self._key) as client, self._connected(client) as session:
                return await session.call_tool(tool, arguments)

        result = asyncio.run(ask())
        (content,) = result.content
        return content.text.removeprefix(f"Error executing tool {tool}: ") if result.is_error else result.structured_content

    def list(self) -> dict[str, Any]:
        async def ask() -> Any:
            async with AsyncClient(self._url, self._key) as client, self._connected(client) as session:
                return (await session.list_tools()).tools

        return {tool.name: tool for tool in asyncio.run(ask())}

    def _connected(self, client: AsyncClient) -> Any:
        return mcp.Client(create_server(client, read_only=self._read_only))


@pytest.fixture
def tools(service: RunningService, tenant: str) -> Tools:
    return Tools(service.url, service.key(tenant=tenant))


def test_what_reads_is_marked_and_what_changes_is_left_out_of_a_server_that_only_reads(
    tools: Tools, service: RunningService
) -> None:
    found = tools.list()
    assert {name for name, tool in found.items() if tool.annotations.read_only_hint} == READING
    assert found.keys() - READING == {"submit_job", "cancel_job"}
    assert (found["cancel_job"].annotations.destructive_hint, found["submit_job"].annotations.destructive_hint) == (True, False)
    assert Tools(service.url, service.key(), read_only=True).list().keys() == READING
    assert "Unknown tool" in Tools(service.url, service.key(), read_only=True).call("cancel_job", job_id="x")


def test_every_tool_and_argument_is_described_and_a_spec_has_the_fields_of_a_job(tools: Tools) -> None:
    for tool in tools.list().values():
        assert len(tool.description) > 30, tool.name
        for name, argument in tool.input_schema["properties"].items():
            assert argument["description"], (tool.name, name)
    spec = tools.list()["submit_job"].input_schema["properties"]["spec"]
    assert list(spec["properties"]) == list(JobSpec.model_fields)
    assert spec["required"] == ["model", "data"]
    assert "multiply-accumulates" in spec["properties"]["flops"]["description"]


def test_a_job_is_submitted_followed_and_cancelled(tools: Tools, service: RunningService, tenant: str) -> None:
    job = service.put(tenant, name="digits")
    assert [found["id"] for found in tools.call("list_jobs", name="digits")["jobs"]] == [job.id]
    driven = DrivenJob(service, job.id)
    driven.search()
    found = tools.call("get_job", job_id=job.id)
    assert (found["state"], found["name"]) == ("SEARCHING", "digits")
    assert tools.call("list_trials", job_id=job.id) == {"trials": [], "total": 0}
    driven.succeed()
    (model,) = tools.call("get_job", job_id=job.id)["result"]["models"]
    assert (model["label"], model["test_accuracy"]) == ("50%", 0.905)
    waiting = service.put(tenant)
    assert tools.call("cancel_job", job_id=waiting.id)["state"] == "CANCELLED"
    assert tools.call("list_jobs", state=["SUCCEEDED"])["jobs"][0]["id"] == job.id


def test_errors_are_told_in_the_words_of_the_service(tools: Tools, service: RunningService) -> None:
    told = tools.call("submit_job", spec=SPEC | {"trials": 0, "flips": True})
    assert told.splitlines() == ["trials is 0; allowed: 1 and more", "flips is not a field of a job; did you mean flip?"]
    assert tools.call("get_job", job_id="01J0000000000000000000000A") == "there is no such job"
    assert "key" in Tools(service.url, "wrong").call("list_jobs")
    reader = Tools(service.url, service.key("read"))
    assert "submit" in reader.call("submit_job", spec=SPEC)
    assert "cannot be reached" in Tools("http://127.0.0.1:9", "key").call("list_jobs")


def test_another_tenants_job_is_not_found(tools: Tools, service: RunningService) -> None:
    other = service.put("somebody-else")
    for tool in ("get_job", "list_trials", "get_front", "cancel_job"):
        assert tools.call(tool, job_id=other.id) == "there is no such job"


def test_no_file_of_this_machine_is_read_for_a_spec(tools: Tools, tmp_path: Any) -> None:
    """A client of the command line sends the content of a search space's file; a model that is told to must not."""
    space = tmp_path / "space.yaml"
    space.write_text(json.dumps({"description": "canary", "methods": {}}))
    told = tools.call("plan_job", spec=SPEC | {"space": str(space)})
    assert "canary" not in told
    assert "space" in told


@pytest.mark.slow
@pytest.mark.short
def test_a_plan_and_a_submit_are_those_of_the_service(tools: Tools) -> None:
    known = tools.call("list_methods_and_models", pattern="deit_tiny*", limit=1)
    assert known["models"] == ["deit_tiny_distilled_patch16_224"]
    assert known["matching_models"] > 1
    plan = tools.call("plan_job", spec=SPEC)
    assert [budget["label"] for budget in plan["budgets"]] == ["50%"]
    job = tools.call("submit_job", spec=SPEC, idempotency_key="once")
    assert job["state"] == "QUEUED"
    assert tools.call("submit_job", spec=SPEC, idempotency_key="once")["id"] == job["id"]
