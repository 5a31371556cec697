"""The search as lines on stderr: job, trial, epoch, best so far, time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from autoslim.core.budget import format_flops
from autoslim.core.duration import format_duration
from autoslim.core.job import SearchJob
from autoslim.core.result import EpochReport, Origin, ParetoFront, Target, TrialResult, TrialState
from autoslim.report.epoch_line import epoch_line
from workers.progress.cost import handing_seconds
from workers.progress.eta import EtaEstimator


class Terminal:
    """One line an event, so that it reads the same in a terminal, a log file and a CI page."""

    def __init__(
        self,
        job: SearchJob,
        *,
        budgets: Mapping[str, int],
        slots: int,
        stream: TextIO | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """`tell` hears what is said outside of trials, for those who watch from elsewhere."""
        self._clock = EtaEstimator(job, slots=slots)
        self._budgets, self._limits = dict(budgets), job.limits
        self._handing = handing_seconds(job)
        self._results: list[TrialResult] = []
        self._stream = sys.stderr if stream is None else stream
        self._tell = tell
        self._width = len(str(job.trials - 1))
        self._trials = job.trials
        self._running: set[int] = set()
        self._reused = 0

    def already(self, results: list[TrialResult]) -> None:
        """Trials that an earlier run has finished."""
        self._results = [result for result in results if result.state is not TrialState.RUNNING]
        self._reused = sum(result.origin == Origin.REUSED for result in results)
        self._clock.already(self._results)

    def say(self, text: str) -> None:
        self.note(text)
        if self._tell is not None:
            self._tell(text)

    def note(self, text: str) -> None:
        """For this terminal alone."""
        self._stream.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        self._stream.flush()

    def trial_begins(self, result: TrialResult, target: str) -> None:
        self._running.add(result.number)
        self._clock.begin_trial()
        self.note(f"{self._name(result)} begins: {_target(target)}, {_knobs(result)}")

    def trial_reports(self, result: TrialResult, report: EpochReport) -> None:
        line = epoch_line(report, result.recipe.training.epochs)
        self.note(f"{self._name(result)} {line}{self._rest()}")

    def trial_ends(self, result: TrialResult, target: str) -> None:
        self._running.discard(result.number)
        self._results.append(result)
        self._clock.end_trial()
        self.note(f"{self._name(result)} {_ending(result)}{self._rest()}")

    def search_ends(self, reason: str, finals: int) -> None:
        more = f"the best {finals} are tuned longer" if finals else "none is tuned longer: the share kept for it is too small"
        self._trials = len(self._results) - self._reused + len(self._running) + finals
        self._clock.begin_finals(finals)
        self.note(f"the search ends: {reason}; {more}")

    def _name(self, result: TrialResult) -> str:
        return f"trial {result.number:0{self._width}d} ({len(self._results) - self._reused}/{self._trials} done) {result.recipe.method}"

    def _rest(self) -> str:
        front = ParetoFront.of(result for result in self._results if result.keeps_to(self._limits))
        best = []
        for label, flops in self._budgets.items():
            within = [r for r in front.results if (r.flops or 0) <= flops]
            if within:
                best.append(f"{label} {within[-1].accuracy:.1%}")
        left = self._clock.seconds_left(self._results)
        left = None if left is None else left + self._handing
        parts = ([f"best {', '.join(best)}"] if best else []) + (
            [f"about {format_duration(left)} left"] if left is not None else []
        )
        return f" | {' | '.join(parts)}" if parts else ""


def _target(target: str) -> str:
    return "no budget" if target == Target.FREE else f"budget {target}"


def _knobs(result: TrialResult) -> str:
    knobs = {name: value for step in result.recipe.steps for name, value in step.knobs.items()}
    return ", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in knobs.items())


def _ending(result: TrialResult) -> str:
    if result.duplicate_of is not None:
        return f"is the same recipe as trial {result.duplicate_of}, whose result it takes"
    if result.state is TrialState.COMPLETE:
        assert result.accuracy is not None and result.flops is not None
        return f"ends: accuracy {result.accuracy:.1%} at {format_flops(result.flops)} in {format_duration(result.seconds)}"
    if result.state is TrialState.STOPPED:
        return f"is stopped after {result.epochs:.3g} epochs: {result.stopped}"
    lines = (result.error or "").strip().splitlines()
    return f"{result.state.value}: {lines[-1] if lines else result.error_class}"
