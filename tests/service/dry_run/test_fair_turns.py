"""Who plans next: tenants in turn, however many requests each of them has."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from autoslim.service.dry_run.errors import PlanQueueFullError
from autoslim.service.dry_run.fair_turns import FairTurns


class Planner:
    """Takes turns, each of which ends when it is told to."""

    def __init__(self, *, at_once: int, queue: int = 100) -> None:
        self.turns = FairTurns(at_once=at_once, queue=queue)
        self.running: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self._numbers = itertools.count()

    async def ask(self, tenant: str, count: int = 1) -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(self._take(tenant)) for _ in range(count)]
        await settled()
        return tasks

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await settled()

    async def _take(self, tenant: str) -> None:
        name = f"{tenant}{next(self._numbers)}"
        async with self.turns.turn(tenant):
            self.running.append(name)
            self._ends[name] = asyncio.Event()
            await self._ends[name].wait()
            self.running.remove(name)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_tenant_with_one_request_is_next_however_many_another_has() -> None:
    async def play() -> None:
        planner = Planner(at_once=1)
        await planner.ask("a", 5)
        await planner.ask("b", 2)
        order = []
        while planner.running:
            order += planner.running
            await planner.end(planner.running[0])
        assert order == ["a0", "a1", "b5", "a2", "b6", "a3", "a4"]

    asyncio.run(play())


def test_one_turn_is_always_left_to_the_others() -> None:
    async def play() -> None:
        planner = Planner(at_once=3)
        await planner.ask("a", 5)
        assert planner.running == ["a0", "a1"]
        await planner.ask("b", 3)
        assert planner.running == ["a0", "a1", "b5"]
        await planner.end("a0")
        assert planner.running == ["a1", "b5", "a2"]

    asyncio.run(play())


def test_past_the_length_of_the_queue_a_tenant_is_refused_with_a_time_to_come_back_and_no_other() -> None:
    async def play() -> None:
        planner = Planner(at_once=1, queue=3)
        await planner.ask("a", 3)
        (refused,) = await planner.ask("a")
        with pytest.raises(PlanQueueFullError, match="3 plans of this tenant are being made or wait") as error:
            refused.result()
        assert 1 <= error.value.retry_after <= 60
        await planner.ask("b")
        await planner.end("a0")
        (taken,) = await planner.ask("a")
        assert not taken.done()

    asyncio.run(play())


def test_who_gives_up_leaves_the_queue() -> None:
    async def play() -> None:
        planner = Planner(at_once=1, queue=2)
        await planner.ask("a")
        (waits,) = await planner.ask("a")
        waits.cancel()
        await settled()
        await planner.ask("a")
        await planner.end("a0")
        assert planner.running == ["a2"]

    asyncio.run(play())


def test_who_gives_up_in_the_moment_of_its_turn_passes_it_on() -> None:
    async def play() -> None:
        turns = FairTurns(at_once=1, queue=9)
        async with turns.turn("a"):
            second, third = (asyncio.create_task(turns._wait("a")) for _ in range(2))
            await settled()
        # The turn of the second is granted, but it has not run yet.
        second.cancel()
        await settled()
        assert second.cancelled()
        assert third.done() and not third.cancelled()

    asyncio.run(play())
