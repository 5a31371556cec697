"""A process that runs for as long as the service does, such as the supervisor; it is started again when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
from collections.abc import AsyncIterator, Sequence

_log = logging.getLogger(__name__)

_GRACE = 15.0
_PAUSE = 5.0


@contextlib.asynccontextmanager
async def child_process(command: Sequence[str] | None) -> AsyncIterator[None]:
    """None for no process. At the end it is asked to stop, and after a while made to."""
    if command is None:
        yield
        return
    keeper = asyncio.create_task(_keep(command))
    try:
        yield
    finally:
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeper


async def _keep(command: Sequence[str]) -> None:
    while True:
        # A session of its own: Ctrl-C is for the service, which then stops the process in order.
        process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            await _stop(process)
            raise
        _log.error("the process beside the service ended; it is started again", extra={"code": code, "pid": process.pid})
        await asyncio.sleep(_PAUSE)


async def _stop(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_GRACE):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
