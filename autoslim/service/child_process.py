"""A process that runs as long as the service, such as the supervisor; it is restarted when it exits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
from collections.abc import AsyncIterator, Sequence

_log = logging.getLogger(__name__)

# Longer than the supervisor waits for its own drivers (10 s), so that it is not killed while it does.
_TERMINATE_SECONDS = 15.0
# A process that fails at its start must not be restarted in a tight loop.
_RESTART_SECONDS = 5.0


@contextlib.asynccontextmanager
async def child_process(command: Sequence[str] | None) -> AsyncIterator[None]:
    """Keeps `command` running within the context; None runs nothing. On exit it gets SIGTERM, after 15 s SIGKILL."""
    if command is None:
        yield
        return
    task = asyncio.create_task(_keep_running(command))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _keep_running(command: Sequence[str]) -> None:
    while True:
        # Its own session: Ctrl-C reaches the service only, which then stops this process in order.
        process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            await _stop(process)
            raise
        _log.error("the service's child process exited and is restarted", extra={"code": code, "pid": process.pid})
        await asyncio.sleep(_RESTART_SECONDS)


async def _stop(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_TERMINATE_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
