"""`Planner`: the service's end of the pipe to the process that makes plans (`planner_process`)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import sys
from typing import Any

from autoslim.service.dry_run.errors import (
    DryRunError,
    PlanCrashedError,
    PlannerEndedError,
    PlannerStartingError,
    PlanOverdueError,
)

_log = logging.getLogger(__name__)

PROGRAM = ("-m", "autoslim.service.dry_run.planner_process")
"""What Python runs as the process."""
# Bytes of one line; a plan is far smaller.
_MAX_LINE = 2**23
# The only variables that the process gets, so that it knows neither addresses of databases nor keys.
_ENVIRONMENT = ("PATH", "HOME", "PYTHONPATH", "VIRTUAL_ENV", "LANG", "LC_ALL", "TMPDIR", "HF_HOME")
# A process with threads cannot be forked safely, and the libraries of numpy and of pyarrow (jemalloc) start some when they are imported.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1") | {
    "JE_ARROW_MALLOC_CONF": "background_thread:false"
}


class Planner:
    """Starts the process when it is needed, and again after it died. Belongs to one event loop.

    A request waits for a start for `start_seconds`. The start itself has no limit: on a busy machine torch takes minutes to import, and a
    start that is aborted and repeated would never finish.
    """

    def __init__(self, *, start_seconds: float) -> None:
        self._start_seconds, self._program = start_seconds, PROGRAM
        self._process: asyncio.subprocess.Process | None = None
        self._starting: asyncio.Task[dict[str, Any]] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._pending: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._request_ids = itertools.count(1)

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Begins to start the process, unless it runs or is being started."""
        if self._starting is None or (self._starting.done() and self._process is None):
            self._starting = asyncio.create_task(self._start())

    @property
    def known_capabilities(self) -> dict[str, Any] | None:
        """What `capabilities` returns, where the process has told it already; None before that."""
        known = self._starting is not None and self._starting.done() and not self._starting.cancelled()
        if not known or self._starting is None or self._starting.exception() is not None:
            return None
        return self._starting.result()

    async def capabilities(self) -> dict[str, Any]:
        """What a spec may name: the process tells it when it has started.

        Raises:
            PlannerStartingError: when it has not started yet; it goes on starting.
            DryRunError: when it cannot be started.
        """
        self.start()
        assert self._starting is not None
        try:
            async with asyncio.timeout(self._start_seconds):
                # Shielded: a request that gives up must not end the start that others wait for.
                capabilities: dict[str, Any] = await asyncio.shield(self._starting)
                return capabilities
        except TimeoutError:
            raise PlannerStartingError(
                "the planner is still starting, which takes minutes on a busy machine; repeat the request"
            ) from None

    async def ask(self, operation: str, argument: Any, seconds: float) -> dict[str, Any]:
        """The answer of `planner_process.respond` to this operation; `seconds` count from when the process has started.

        Raises:
            PlannerStartingError: when the process has not started yet.
            DryRunError: when the process ends, or takes longer than `seconds`.
        """
        await self.capabilities()
        process, request_id = self._process, next(self._request_ids)
        if process is None or process.stdin is None:
            raise PlannerEndedError("the planner ended while the request waited for it; repeat the request")
        self._pending[request_id] = future = asyncio.get_running_loop().create_future()
        request = {"id": request_id, "operation": operation, "argument": argument, "seconds": seconds}
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            with contextlib.suppress(OSError):
                # A process that has ended is noticed by the reader, which fails the request.
                await process.stdin.drain()
            answer: dict[str, Any] = await future
        finally:
            self._pending.pop(request_id, None)
        if answer.get("overdue"):
            raise PlanOverdueError(f"no plan was made within {seconds:g} seconds (limits.plan_seconds)")
        if "crash" in answer:
            raise PlanCrashedError(answer["crash"])
        return answer

    async def close(self) -> None:
        for task in (self._starting, self._reader):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, DryRunError):
                    await task
        await self._kill()

    async def _start(self) -> dict[str, Any]:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | _ONE_THREAD
        pipe = asyncio.subprocess.PIPE
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable, *self._program, stdin=pipe, stdout=pipe, env=environment, limit=_MAX_LINE
        )
        assert process.stdout is not None
        try:
            line = await process.stdout.readline()
        except asyncio.CancelledError:
            await self._kill()
            raise
        if not line:
            code = await process.wait()
            self._process = None
            raise DryRunError(f"the planner could not be started, it ended with code {code}; the service's log has its output")
        _log.info("the planner has started", extra={"pid": process.pid})
        self._reader = asyncio.create_task(self._read(process, process.stdout))
        capabilities: dict[str, Any] = json.loads(line)["result"]
        return capabilities

    async def _read(self, process: asyncio.subprocess.Process, stdout: asyncio.StreamReader) -> None:
        """Hands each answer to the request that waits for it, until the process ends."""
        try:
            while line := await stdout.readline():
                answer = json.loads(line)
                future = self._pending.get(answer["id"])
                # Nobody waits any more where the request was cancelled.
                if future is not None and not future.done():
                    future.set_result(answer)
        except ValueError as error:
            _log.error("the planner's answer cannot be read; it is started again", exc_info=error)
        await self._kill()
        _log.error("the planner ended and is started again at the next request", extra={"code": process.returncode})
        for future in self._pending.values():
            if not future.done():
                future.set_exception(PlannerEndedError("the planner ended while it made this plan; repeat the request"))

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
