"""Workers on a simulated clock: trials take as long as the surrogate predicts, fail, are preempted, and continue from checkpoints.

A `Search` is asked for a trial whenever a worker is free, and gets every report, as under Ray Tune: the coordinator that runs there runs
here unchanged. It makes one decision at a time, and each takes some simulated time.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from typing import Protocol

from autoslim.core.recipe import Recipe
from autoslim.core.result import EpochReport, Outcome


class Task(Protocol):
    """A trial to run now."""

    @property
    def number(self) -> int: ...

    @property
    def recipe(self) -> Recipe: ...


class Search(Protocol):
    """What proposes trials and takes their results, such as `workers.search.coordinator.Coordinator`."""

    def next_trial(self) -> Task | None:
        """The next trial to run; None when there is none."""

    def report(self, number: int, report: EpochReport) -> bool | None:
        """False where the trial is stopped; it has then ended."""

    def complete(self, number: int, outcome: Outcome) -> None: ...

    def fail(self, number: int, error_class: str, error: str) -> None: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimulatedTrial:
    """`reports` are due after `seconds` of a worker's time, counted from the trial's start."""

    reports: tuple[EpochReport, ...]
    seconds: tuple[float, ...]
    outcome: Outcome


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditions:
    """`failing` is the share of trials that raise an error; a worker is preempted `preempted` times an hour.

    A preempted worker is back after `away` seconds. Its trial goes on from its last report, or from the last of its checkpoints in
    between, which it writes every `checkpoint` seconds; with `notice` it writes one before the worker leaves. Without notice a trial has
    failed that is lost more than `retries` times, `in_a_row` without a report in between or in all.

    A trial starts `start` seconds after it was decided on, a decision takes `decision` seconds of the one driver. `duration_factor`
    multiplies every trial's time. The `first` workers are there from the beginning (None: all), then one more joins every `joining`
    seconds; at most `slots` trials run at a time (None: as many as there are workers).
    """

    failing: float = 0.0
    preempted: float = 0.0
    away: float = 120.0
    checkpoint: float | None = None
    notice: bool = False
    retries: float = math.inf
    in_a_row: bool = True
    start: float = 0.3
    decision: float = 0.05
    duration_factor: float = 1.0
    first: int | None = None
    joining: float = 0.0
    slots: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """A report that was made; `epochs` and `seconds` are the whole search's until then. `last` ends its trial as complete."""

    seconds: float
    epochs: float
    number: int
    report: EpochReport
    last: bool


@dataclasses.dataclass(kw_only=True)
class Tally:
    """Seconds of workers: `useful` ones trained and evaluated what was kept, `lost` ones what a preemption undid."""

    useful: float = 0.0
    lost: float = 0.0
    away: float = 0.0
    failures: int = 0
    preemptions: int = 0
    given_up: int = 0
    """Trials that have failed because they were lost too often."""
    makespan: float = 0.0
    last_start: float = 0.0
    """When the last trial began."""


@dataclasses.dataclass
class _Run:
    task: Task
    trial: SimulatedTrial
    fails_at: int | None
    done: int = 0
    """Reports made; the checkpoint is after the last of them."""
    losses: int = 0
    saved: float = 0.0
    """Seconds of work towards the next report that a checkpoint has."""


class Cluster:
    """`run` plays a search to its end, or until `epochs` epochs are spent.

    `recipes` (by number), `events` and `tally` say what happened.
    """

    def __init__(
        self,
        search: Search,
        trial_of: Callable[[Recipe], SimulatedTrial],
        *,
        workers: int,
        conditions: Conditions | None = None,
        seed: int = 0,
    ) -> None:
        self.search, self.trial_of, self.workers = search, trial_of, workers
        self.conditions = conditions or Conditions()
        self.recipes: dict[int, Recipe] = {}
        self.events: list[Event] = []
        self.tally = Tally()
        self._seed = seed
        self._random = random.Random(f"cluster {seed}")
        self._now = self._epochs = self._driver_free = 0.0
        self._order = itertools.count()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._again: deque[_Run] = deque()
        self._idle: list[int] = []
        self._busy = 0
        self._useful: list[tuple[float, float]] = []
        self._limit = float("inf")

    def run(self, *, epochs: float = float("inf")) -> Cluster:
        self._limit = epochs
        first = self.workers if self.conditions.first is None else self.conditions.first
        for worker in range(self.workers):
            joins = max(0, worker - first + 1) * self.conditions.joining
            self._at(joins, lambda worker=worker: self._ask(worker))
        while self._queue and self._epochs < self._limit:
            self._now, _, action = heapq.heappop(self._queue)
            action()
        self.tally.makespan = max((event.seconds for event in self.events), default=0.0)
        return self

    def _at(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (seconds, next(self._order), action))

    def _ask(self, worker: int) -> None:
        """A free worker continues a preempted trial, or begins a new one."""
        if self.conditions.slots is not None and self._busy >= self.conditions.slots:
            self._idle.append(worker)
            return
        if self._again:
            run = self._again.popleft()
        else:
            task = self.search.next_trial()
            if task is None:
                self._idle.append(worker)
                return
            self.recipes[task.number] = task.recipe
            trial = self.trial_of(task.recipe)
            run = _Run(task, trial, self._failure(task, trial))
            self.tally.last_start = self._now
        self._busy += 1
        self._driver_free = max(self._driver_free, self._now) + self.conditions.decision
        self._continue(worker, run, self._driver_free + self.conditions.start)

    def _failure(self, task: Task, trial: SimulatedTrial) -> int | None:
        """Before which report this trial fails; decided by its recipe, so that it fails wherever it is run."""
        fate = random.Random(f"failure {self._seed} {task.recipe.key}")
        return fate.randrange(len(trial.reports)) if fate.random() < self.conditions.failing else None

    def _continue(self, worker: int, run: _Run, begin: float) -> None:
        """The next report of `run`, or the preemption that comes before it."""
        before = run.trial.seconds[run.done - 1] if run.done else 0.0
        seconds = (run.trial.seconds[run.done] - before) * self.conditions.duration_factor - run.saved
        # Preemptions are a Poisson process, which has no memory: each stretch of time draws its own.
        rate = self.conditions.preempted / 3600
        until = begin + self._random.expovariate(rate) if rate else float("inf")
        if until < begin + seconds:
            self._at(until, lambda: self._preempt(worker, run, until - begin))
        elif run.fails_at == run.done:
            self._at(begin + seconds, lambda: self._fail(worker, run, seconds))
        else:
            self._at(begin + seconds, lambda: self._report(worker, run, seconds))

    def _report(self, worker: int, run: _Run, seconds: float) -> None:
        report = run.trial.reports[run.done]
        self._epochs += report.epoch - (run.trial.reports[run.done - 1].epoch if run.done else 0.0)
        self.tally.useful += seconds
        self._useful.append((self._now, seconds))
        run.done, run.saved = run.done + 1, 0.0
        if self.conditions.in_a_row:
            run.losses = 0
        last = run.done == len(run.trial.reports)
        goes_on = self.search.report(run.task.number, report) is not False
        self.events.append(
            Event(seconds=self._now, epochs=self._epochs, number=run.task.number, report=report, last=last and goes_on)
        )
        if goes_on and not last:
            self._continue(worker, run, self._now)
            return
        if goes_on:
            self.search.complete(run.task.number, run.trial.outcome)
        self._busy -= 1
        self._ask(worker)

    def _fail(self, worker: int, run: _Run, seconds: float) -> None:
        self.tally.failures += 1
        self.tally.lost += seconds
        self.search.fail(run.task.number, "TrialError", "a simulated failure")
        self._busy -= 1
        self._ask(worker)

    def _preempt(self, worker: int, run: _Run, seconds: float) -> None:
        self.tally.preemptions += 1
        kept = self._kept(seconds)
        run.saved += kept
        self.tally.useful += kept
        self.tally.lost += seconds - kept
        self.tally.away += self.conditions.away
        self._at(self._now + self.conditions.away, lambda: self._ask(worker))
        self._busy -= 1
        run.losses += not self.conditions.notice
        if run.losses > self.conditions.retries:
            self.tally.given_up += 1
            self.search.fail(run.task.number, "WorkerLostError", "its worker was preempted too often")
        else:
            self._again.append(run)
        if self._idle:
            self._ask(self._idle.pop())

    def _kept(self, seconds: float) -> float:
        """Of so many seconds of work since the last checkpoint, how many are in a checkpoint when the worker leaves."""
        if self.conditions.notice:
            return seconds
        every = self.conditions.checkpoint
        return 0.0 if every is None else seconds // every * every

    @property
    def utilisation(self) -> float:
        """Share of the workers' time, up to the end of the last trial, that was spent on work that was kept."""
        return self.tally.useful / (self.workers * self.tally.makespan) if self.tally.makespan else 0.0

    @property
    def utilisation_until_last(self) -> float:
        """The same up to the start of the last trial: after that, workers are idle in any search."""
        end = self.tally.last_start
        useful = sum(max(0.0, min(done, end) - (done - seconds)) for done, seconds in self._useful)
        return useful / (self.workers * end) if end else 0.0
