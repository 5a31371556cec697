"""The job's notice board in the Ray dashboard: every trial is a task there, by job, number, method and budget, for as long as it runs.

Tune's own actors are used again for one trial after another and keep one class name, so that they cannot say which trial they run.
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray


@ray.remote(num_cpus=0, max_restarts=-1)
class DashboardActor:
    """One process a job, whatever the number of trials; a trial's task ends with it, and fails with it."""

    def __init__(self) -> None:
        self._ends: dict[int, asyncio.Future[str | None]] = {}

    async def trial(self, number: int, recipe: str) -> None:
        """Runs until `end` of this number; `recipe` can be read in the task's arguments and log."""
        print(recipe, flush=True)  # noqa: T201 - the task's log is where the dashboard shows it
        end: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._ends[number] = end
        error = await end
        if error is not None:
            raise RuntimeError(error)

    async def end(self, number: int, error: str | None) -> None:
        future = self._ends.pop(number, None)
        if future is not None and not future.done():
            future.set_result(error)


class DashboardTasks:
    """The driver's side of the board. Nothing waits for it: a board that is gone costs the picture, never the search."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._board: Any = DashboardActor.options(name=f"{job} board", max_concurrency=1000).remote()  # type: ignore[attr-defined]

    def begin(self, number: int, method: str, target: str, recipe: str) -> None:
        title = f"{self._job} trial {number:03d} {method} {target}"
        self._board.trial.options(name=title).remote(number, recipe)

    def end(self, number: int, error: str | None) -> None:
        self._board.end.options(name=f"{self._job} end of trial {number:03d}").remote(number, error)
