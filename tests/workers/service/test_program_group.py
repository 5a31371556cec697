"""Programs that need each other: the order of their starts and stops, what one that exits takes along, and whose start counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import pytest

from workers.service.program_group import Member, ProgramGroup


def nothing() -> None:
    return


class Machine:
    """A database with an API on it, a head, and a worker that ends with the head: in memory, with what was done to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.alive: set[str] = set()
        self.done: list[str] = []
        self.said: list[str] = []
        # What happens on top, by what is done: `start api`, `look at api`, `stop api`.
        self.at: dict[str, Callable[[], object]] = defaultdict(lambda: nothing)

    def group(self) -> ProgramGroup:
        """As one process has it."""
        members = [
            self._member("database"),
            self._member("head"),
            self._member("worker", needs="head", ends_with_it=True),
            self._member("api", needs="database"),
        ]
        return ProgramGroup(self.folder, members, logs=self.folder / "logs", say=self.said.append)

    def _member(self, name: str, *, needs: str | None = None, ends_with_it: bool = False) -> Member:
        def start() -> None:
            self.done.append(f"start {name}")
            self.at[f"start {name}"]()
            self.alive.add(name)

        def is_alive() -> bool:
            self.at[f"look at {name}"]()
            return name in self.alive

        def stop() -> None:
            self.done.append(f"stop {name}")
            self.at[f"stop {name}"]()
            self.alive.discard(name)

        return Member(
            name=name, title=name.capitalize(), start=start, is_alive=is_alive, stop=stop, needs=needs, ends_with_it=ends_with_it
        )


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path / "installation")


def running(machine: Machine) -> ProgramGroup:
    """A group that this process has started."""
    group = machine.group()
    group.claim()
    group.start()
    machine.done.clear()
    machine.said.clear()
    return group


def fail(reason: str) -> None:
    raise RuntimeError(reason)


def test_they_start_in_order_and_stop_in_reverse(machine):
    group = machine.group()
    assert group.running() == []
    group.claim()
    group.start()
    assert machine.done == ["start database", "start head", "start worker", "start api"]
    assert machine.said == ["Database ...", "Head ...", "Worker ...", "Api ..."]
    assert group.running() == ["api", "worker", "head", "database"]
    machine.done.clear()
    group.stop()
    assert machine.done == ["stop api", "stop worker", "stop head", "stop database"]
    assert group.running() == []


def test_a_start_can_be_in_two_parts(machine):
    group = machine.group()
    group.claim()
    group.start(last="head")
    assert machine.done == ["start database", "start head"]
    group.start(first="worker")
    assert machine.done == ["start database", "start head", "start worker", "start api"]


def test_none_is_started_after_one_that_does_not_start(machine):
    machine.at["start head"] = lambda: fail("no room")
    group = machine.group()
    group.claim()
    with pytest.raises(RuntimeError, match="no room"):
        group.start()
    assert machine.done == ["start database", "start head"]
    assert group.running() == ["database"]


def test_a_second_start_is_refused_and_names_what_runs(machine):
    machine.group().refuse_second_start()
    running(machine)
    machine.alive -= {"head", "worker"}
    with pytest.raises(RuntimeError, match=r"runs already \(api, database\); stop it first"):
        machine.group().refuse_second_start()


def test_one_that_comes_before_what_it_needs_is_refused(tmp_path):
    api = Member(name="api", title="API", start=nothing, is_alive=lambda: False, stop=nothing, needs="database")
    with pytest.raises(AssertionError):
        ProgramGroup(tmp_path, [api], logs=tmp_path)


@pytest.mark.parametrize(
    ("name", "done"),
    [
        ("head", ["stop worker", "stop head", "start head", "start worker"]),
        ("worker", ["stop worker", "start worker"]),
        ("database", ["stop database", "start database"]),
    ],
)
def test_one_is_started_again_with_what_cannot_live_without_it(machine, name, done):
    running(machine).revive(name)
    assert machine.done == done


def test_what_has_exited_is_started_again_until_another_process_stops_the_group(machine):
    group = running(machine)
    machine.alive.remove("api")
    machine.at["start api"] = machine.group().stop
    group.watch(poll_seconds=0)
    assert machine.done[:2] == ["stop api", "start api"]
    assert machine.done.count("start api") == 1
    assert machine.said == [f"api has exited and is started again; its log is in {machine.folder / 'logs'}", "Api ..."]


def test_one_that_cannot_be_started_again_does_not_keep_the_others_from_it(machine):
    group = running(machine)
    machine.alive -= {"database", "worker"}
    machine.at["start database"] = lambda: fail("no room")
    machine.at["start worker"] = machine.group().stop
    group.watch(poll_seconds=0)
    starts = [each for each in machine.done if each.startswith("start")]
    assert (starts[0], starts[-1]) == ("start database", "start worker")
    assert "database could not be started again: no room" in machine.said


def test_nothing_is_started_again_that_another_process_has_just_stopped(machine):
    group = running(machine)
    # The last look of a round.
    machine.at["look at database"] = machine.group().stop
    group.watch(poll_seconds=0)
    assert machine.done == ["stop api", "stop worker", "stop head", "stop database"]
    assert machine.said == []


def test_a_group_that_another_process_has_started_anew_is_left_to_it(machine):
    group, other = running(machine), machine.group()
    machine.at["look at database"] = other.claim
    group.watch(poll_seconds=0)
    assert machine.done == []
    assert group.replaced
    assert other.wanted


def test_a_group_is_wanted_until_it_is_stopped_or_started_by_another_process(machine):
    mine, other = machine.group(), machine.group()
    assert (mine.wanted, mine.replaced) == (False, False)
    mine.claim()
    assert (mine.wanted, mine.replaced) == (True, False)
    assert (other.wanted, other.replaced) == (False, True)
    other.claim()
    assert (mine.wanted, mine.replaced) == (False, True)
    assert (other.wanted, other.replaced) == (True, False)
    mine.stop()
    assert (mine.wanted, mine.replaced) == (False, False)
    assert (other.wanted, other.replaced) == (False, False)


def test_one_process_at_a_time_stops_a_group_which_is_not_wanted_from_then_on(machine):
    group = running(machine)
    seen = []

    def look() -> None:
        def is_free() -> bool:
            try:
                with filelock.FileLock(machine.folder / "stop.lock", timeout=0):
                    return True
            except filelock.Timeout:
                return False

        with ThreadPoolExecutor(1) as another:
            seen.append((another.submit(is_free).result(), group.wanted))

    machine.at["stop api"] = look
    group.stop()
    assert seen == [(False, False)]
