"""A process that runs as long as the service, such as the supervisor; it is restarted when it exits.

Its standard input is a pipe that this process holds and never writes to: the pipe ends with this process, also where it is killed, and
tells the other one to end. A signal of the parent's death would do the same on Linux only, and is lost where the parent is gone before
it is set.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import time
from collections.abc import AsyncIterator, Sequence

_log = logging.getLogger(__name__)

# Longer than the supervisor takes to end its drivers (45 s until it kills them), so that it is not killed while it does.
TERMINATE_SECONDS = 60.0
# A process that fails at its start must not be restarted in a tight loop; one that has run for so long is restarted at once.
_RESTART_SECONDS, _WELL_SECONDS = 5.0, 30.0


@contextlib.asynccontextmanager
async def child_process(command: Sequence[str] | None) -> AsyncIterator[None]:
    """Keeps `command` running within the context; None runs nothing. On exit it gets SIGTERM, after 60 s SIGKILL."""
    if command is None:
        yield
        return
    task = asyncio.create_task(_keep_running(command))
    try:
        yield
    finally:
        task.cancel()
        # Not `await task`: its cancellation could not be distinguished from this task's own.
        await asyncio.wait([task])


async def _keep_running(command: Sequence[str]) -> None:
    while True:
        began = time.monotonic()
        try:
            # Its own session: Ctrl-C reaches the service only, which then stops this process in order.
            process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, start_new_session=True)
        except OSError as error:
            # Such as too many processes, which may pass.
            _log.error("the service's child process cannot be started: %s", error)
        else:
            code = await _run(process)
            _log.error("the service's child process exited and is restarted", extra={"code": code, "pid": process.pid})
        if time.monotonic() - began < _WELL_SECONDS:
            await asyncio.sleep(_RESTART_SECONDS)


async def _run(process: asyncio.subprocess.Process) -> int:
    """Its exit code; a process that is still running when this is cancelled is ended."""
    try:
        return await process.wait()
    except asyncio.CancelledError:
        await _stop(process)
        raise


async def _stop(process: asyncio.subprocess.Process) -> None:
    _log.info("the service's child process is asked to end", extra={"pid": process.pid})
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(TERMINATE_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
