"""`Planner`: the planning process from the service's side; one question at a time, answers kept for a while."""

from __future__ import annotations

import asyncio
import collections
import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from autoslim.config import InfeasibleSpecError, JobSpec, SpecError, ValidationIssue, settings_of
from autoslim.errors import AutoslimError
from autoslim.service.settings import RequestLimits

_log = logging.getLogger(__name__)

_KEPT = 256
_FRESH = 60.0
"""Seconds after which an answer is worked out again: the data may have changed."""
_LINE = 2**22
_WAITING = 64
_START = 120.0
_PASSED_ON = ("PATH", "HOME", "PYTHONPATH", "VIRTUAL_ENV", "LANG", "LC_ALL", "TMPDIR", "HF_HOME", "OMP_NUM_THREADS")
"""The environment that the process sees; addresses and keys are not among it."""


def deciding_fields(spec: JobSpec) -> dict[str, Any]:
    """The fields of a spec that its plan depends on: specs that differ in others share an answer."""
    names = {setting.name for setting in settings_of(type(spec)).values() if setting.rules.decides_plan}
    fields: dict[str, Any] = json.loads(spec.model_dump_json(include=names))
    return fields


class PlannerError(AutoslimError):
    """No plan was made in time, or the process died over it; nothing is said about the spec."""


class Planner:
    """Belongs to one event loop."""

    def __init__(self, limits: RequestLimits) -> None:
        self._limits = limits
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._facts: dict[str, Any] | None = None
        self._kept: collections.OrderedDict[str, tuple[float, asyncio.Task[dict[str, Any]]]] = collections.OrderedDict()

    async def facts(self) -> Mapping[str, Any]:
        """`models`, `spaces` and `methods` that there are."""
        if self._facts is None:
            self._facts = (await self._ask("facts", None, _START))["result"]
        return self._facts

    async def plan(self, spec: JobSpec) -> dict[str, Any]:
        """Whoever asks the same meanwhile waits for the same answer.

        Raises:
            SpecError: when the spec cannot be carried out.
            PlannerError: when there is no answer in time.
        """
        argument = {"spec": deciding_fields(spec), "parameters": self._limits.parameters}
        key = json.dumps(argument, sort_keys=True)
        made, task = self._kept.get(key, (0.0, None))
        if task is None or time.monotonic() - made > _FRESH:
            task = asyncio.create_task(self._ask("plan", argument, self._limits.plan_seconds))
            self._keep(key, task)
        try:
            # A client that goes away must not take the answer from the others.
            answer = await asyncio.shield(task)
        except PlannerError:
            self._kept.pop(key, None)
            raise
        if "fault" in answer:
            issue = ValidationIssue(place=tuple(answer["fault"]["place"]), problem=answer["fault"]["problem"])
            raise (InfeasibleSpecError if answer["fault"]["infeasible"] else SpecError)([issue])
        result: dict[str, Any] = answer["result"]
        return result

    async def close(self) -> None:
        for _, task in self._kept.values():
            task.cancel()
        await self._end()

    def _keep(self, key: str, task: asyncio.Task[dict[str, Any]]) -> None:
        self._kept[key] = (time.monotonic(), task)
        self._kept.move_to_end(key)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)

    async def _ask(self, operation: str, argument: Any, seconds: float) -> dict[str, Any]:
        if self._waiting >= _WAITING:
            raise PlannerError(f"{self._waiting} plans are waiting to be made already; try again in a while")
        self._waiting += 1
        try:
            async with self._turn:
                return await self._converse(operation, argument, seconds)
        finally:
            self._waiting -= 1

    async def _converse(self, operation: str, argument: Any, seconds: float) -> dict[str, Any]:
        line = json.dumps({"operation": operation, "argument": argument}).encode() + b"\n"
        try:
            process = await self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(line)
            async with asyncio.timeout(seconds):
                await process.stdin.drain()
                answer = await process.stdout.readline()
        except TimeoutError:
            await self._end()
            raise PlannerError(f"no plan was made within {seconds:g} seconds") from None
        except asyncio.CancelledError:
            # The answer that is still to come belongs to nobody.
            await self._end()
            raise
        except (OSError, ValueError) as error:
            await self._end()
            raise PlannerError(f"the planning process cannot be spoken to: {error}") from error
        if not answer:
            await self._end()
            raise PlannerError("the planning process died over this spec")
        result: dict[str, Any] = json.loads(answer)
        return result

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "autoslim.service.planning.process"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=environment,
                limit=_LINE,
            )
            _log.info("planning process started", extra={"pid": self._process.pid})
        return self._process

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()
