"""`DryRunner`: talks to the dry-run process, one request at a time, and caches its results."""

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

# Plans in the cache, a few kB each.
_MAX_CACHED = 256
# Seconds until a dry run is repeated: the data may have changed.
_CACHE_SECONDS = 60.0
# Bytes of one response; a result is far smaller, and a process that writes without end is stopped here.
_MAX_LINE = 2**22
# Requests that wait for the process; more would only time out.
_MAX_WAITING = 64
# Seconds for the first response: importing torch and timm from a cold disk takes long.
_START_SECONDS = 120.0
# The environment of the process: neither addresses nor keys.
_ENVIRONMENT = ("PATH", "HOME", "PYTHONPATH", "VIRTUAL_ENV", "LANG", "LC_ALL", "TMPDIR", "HF_HOME", "OMP_NUM_THREADS")


def deciding_fields(spec: JobSpec) -> dict[str, Any]:
    """The fields of a spec that its dry run depends on: specs that differ in others share an answer."""
    names = {setting.name for setting in settings_of(type(spec)).values() if setting.rules.decides_plan}
    fields: dict[str, Any] = json.loads(spec.model_dump_json(include=names))
    return fields


class DryRunError(AutoslimError):
    """No result came in time, or the process died; the spec may be valid."""


class DryRunner:
    """Belongs to one event loop. Starts the process when it is needed, and again after it died."""

    def __init__(self, limits: RequestLimits) -> None:
        self._limits = limits
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._facts: dict[str, Any] | None = None
        self._cache: collections.OrderedDict[str, tuple[float, asyncio.Task[dict[str, Any]]]] = collections.OrderedDict()

    async def facts(self) -> Mapping[str, Any]:
        """All `models`, `spaces` and `methods`, before the operator's rules.

        Raises:
            DryRunError: when the process does not answer in time.
        """
        if self._facts is None:
            self._facts = (await self._request("facts", None, _START_SECONDS))["result"]
        return self._facts

    async def dry_run(self, spec: JobSpec) -> dict[str, Any]:
        """A `PlanResponse` as a dictionary. Concurrent calls for the same spec share one request.

        Raises:
            SpecError: naming the field that makes the search impossible.
            DryRunError: when the process does not answer in time.
        """
        argument = {"spec": deciding_fields(spec), "parameters": self._limits.parameters}
        key = json.dumps(argument, sort_keys=True)
        made, task = self._cache.get(key, (0.0, None))
        if task is None or time.monotonic() - made > _CACHE_SECONDS:
            task = asyncio.create_task(self._request("dry_run", argument, self._limits.plan_seconds))
            self._store(key, task)
        try:
            # Shielded: a client that disconnects must not cancel the request for the others.
            response = await asyncio.shield(task)
        except DryRunError:
            self._cache.pop(key, None)
            raise
        if "fault" in response:
            fault = response["fault"]
            issue = ValidationIssue(place=tuple(fault["place"]), problem=fault["problem"])
            raise (InfeasibleSpecError if fault["infeasible"] else SpecError)([issue])
        result: dict[str, Any] = response["result"]
        return result

    async def close(self) -> None:
        for _, task in self._cache.values():
            task.cancel()
        await self._kill()

    def _store(self, key: str, task: asyncio.Task[dict[str, Any]]) -> None:
        self._cache[key] = (time.monotonic(), task)
        self._cache.move_to_end(key)
        while len(self._cache) > _MAX_CACHED:
            self._cache.popitem(last=False)

    async def _request(self, operation: str, argument: Any, seconds: float) -> dict[str, Any]:
        if self._waiting >= _MAX_WAITING:
            raise DryRunError(f"{self._waiting} plans are waiting already; try again later")
        self._waiting += 1
        try:
            async with self._lock:
                return await self._exchange(operation, argument, seconds)
        finally:
            self._waiting -= 1

    async def _exchange(self, operation: str, argument: Any, seconds: float) -> dict[str, Any]:
        line = json.dumps({"operation": operation, "argument": argument}).encode() + b"\n"
        try:
            process = await self._ensure_process()
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(line)
            async with asyncio.timeout(seconds):
                await process.stdin.drain()
                response = await process.stdout.readline()
        except TimeoutError:
            await self._kill()
            raise DryRunError(f"no plan was made within {seconds:g} seconds") from None
        except asyncio.CancelledError:
            # Its response is still to come and would be read as that of the next request.
            await self._kill()
            raise
        except (OSError, ValueError) as error:
            await self._kill()
            raise DryRunError(f"the dry-run process does not communicate: {error}") from error
        if not response:
            await self._kill()
            raise DryRunError("the dry-run process died while it made this plan")
        result: dict[str, Any] = json.loads(response)
        return result

    async def _ensure_process(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "autoslim.service.dry_run.process"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=environment,
                limit=_MAX_LINE,
            )
            _log.info("dry-run process started", extra={"pid": self._process.pid})
        return self._process

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()
