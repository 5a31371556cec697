"""The trials in the Ray dashboard: each one is a task there, named by job, number, method and budget, for as long as it runs.

Tune's own actors run one trial after another under one class name, which does not say which trial it is.
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray

from autoslim.core.result import TrialResult
from workers.progress.callbacks import SearchCallback


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


class DashboardTasks(SearchCallback):
    """Starts and ends the task of a trial. The driver does not wait for the actor: without it only the tasks are missing."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._started: set[int] = set()
        self._actor: Any = DashboardActor.options(name=f"{job} trials", max_concurrency=1000).remote()  # type: ignore[attr-defined]

    def on_trial_start(self, result: TrialResult, target: str) -> None:
        self._started.add(result.number)
        title = f"{self._job} trial {result.number:03d} {result.recipe.title} {target}"
        self._actor.trial.options(name=title).remote(result.number, result.recipe.to_json())

    def on_trial_end(self, result: TrialResult, target: str) -> None:
        # A trial that needed no training has no task.
        if result.number in self._started:
            self._started.remove(result.number)
            name = f"{self._job} end of trial {result.number:03d}"
            self._actor.end.options(name=name).remote(result.number, result.error)
