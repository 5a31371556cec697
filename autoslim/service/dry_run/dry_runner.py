"""`DryRunner`: plans of specs, each made once: in turns between tenants, by the planner, and from a cache after that."""

from __future__ import annotations

import asyncio
import collections
import json
import time
from collections.abc import Mapping
from typing import Any

from autoslim.config import InfeasibleSpecError, JobSpec, SpecError, ValidationIssue, settings_of
from autoslim.service.dry_run.fair_turns import FairTurns
from autoslim.service.dry_run.fingerprint import fingerprint
from autoslim.service.dry_run.planner import Planner
from autoslim.service.settings import RequestLimits

# Plans in the cache, a few kB each.
_MAX_CACHED = 1024
# Seconds. A change of the data changes the key; this bounds what a fingerprint cannot see, such as a file deep in a folder of a class.
_CACHE_SECONDS = 600.0

_Answer = dict[str, Any]


def deciding_fields(spec: JobSpec) -> dict[str, Any]:
    """The fields of a spec that its dry run depends on: specs that differ in others share an answer."""
    names = {setting.name for setting in settings_of(type(spec)).values() if setting.rules.decides_plan}
    fields: dict[str, Any] = json.loads(spec.model_dump_json(include=names))
    return fields


class DryRunner:
    """Belongs to one event loop."""

    def __init__(self, limits: RequestLimits) -> None:
        self._limits = limits
        self.planner = Planner(start_seconds=limits.planner_start_seconds)
        self._turns = FairTurns(at_once=limits.plan_processes, queue=limits.plans)
        self._cache: collections.OrderedDict[str, tuple[float, _Answer]] = collections.OrderedDict()
        # By tenant, too: a tenant must not wait in another's queue for a plan that both have asked for.
        self._pending: dict[tuple[str, str], asyncio.Task[_Answer]] = {}

    async def capabilities(self) -> Mapping[str, Any]:
        """All `models`, `spaces` and `methods`, before the operator's rules.

        Raises:
            PlannerStartingError: when the planner has not started yet.
            DryRunError: when it cannot be started.
        """
        return await self.planner.capabilities()

    async def dry_run(self, spec: JobSpec, *, tenant: str) -> _Answer:
        """A `PlanResponse` as a dictionary. A tenant's concurrent calls for the same spec share one request.

        Raises:
            SpecError: naming the field that makes the search impossible.
            PlanQueueFullError: when the tenant has as many plans waiting as it may.
            PlanCrashedError: when the planner failed over this spec.
            DryRunError: when there was no plan in time.
        """
        argument = {"spec": deciding_fields(spec), "limits": self._limits.model_dump(include=_PLAN_LIMITS)}
        seen = await asyncio.to_thread(fingerprint, spec)
        key = json.dumps([argument, seen], sort_keys=True)
        answer = self._cached(key)
        if answer is None:
            task = self._pending.get((tenant, key))
            if task is None:
                task = self._pending[tenant, key] = asyncio.create_task(self._make(tenant, key, argument))
                task.add_done_callback(lambda done: self._forget(tenant, key, done))
            # Shielded: a client that disconnects must not cancel the request for the others.
            answer = await asyncio.shield(task)
        return _result(answer)

    async def close(self) -> None:
        tasks = list(self._pending.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.planner.close()

    async def _make(self, tenant: str, key: str, argument: dict[str, Any]) -> _Answer:
        # The start of the planner takes no turn, so that a turn is as long as a plan.
        await self.capabilities()
        async with self._turns.turn(tenant):
            answer = await self.planner.ask("dry_run", argument, self._limits.plan_seconds)
        self._cache[key] = (time.monotonic(), answer)
        while len(self._cache) > _MAX_CACHED:
            self._cache.popitem(last=False)
        return answer

    def _forget(self, tenant: str, key: str, done: asyncio.Task[_Answer]) -> None:
        del self._pending[tenant, key]
        if not done.cancelled():
            # Read here, too: where all clients have gone, asyncio would log an error that nobody has read.
            done.exception()

    def _cached(self, key: str) -> _Answer | None:
        made, answer = self._cache.get(key, (0.0, None))
        if answer is None or time.monotonic() - made > _CACHE_SECONDS:
            return None
        self._cache.move_to_end(key)
        return answer


# The operator's limits on the work of a plan; they are part of the key, since they decide the answer.
_PLAN_LIMITS = {"images", "parameters", "attention", "recipes"}


def _result(answer: _Answer) -> _Answer:
    if "fault" in answer:
        fault = answer["fault"]
        issue = ValidationIssue(place=tuple(fault["place"]), problem=fault["problem"])
        raise (InfeasibleSpecError if fault["infeasible"] else SpecError)([issue])
    result: _Answer = answer["result"]
    return result
