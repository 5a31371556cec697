"""The search as lines on stderr: job, trial, epoch, best model for each budget, time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from autoslim.core.budget import format_flops
from autoslim.core.duration import format_duration
from autoslim.core.job import SearchJob
from autoslim.core.result import EpochReport, Origin, Target, TrialResult, TrialState
from autoslim.core.score import Score
from autoslim.report.epoch_line import epoch_line
from workers.progress.callbacks import SearchCallback, SearchInfo


class Console(SearchCallback):
    """One line an event, so that it reads the same in a terminal, a log file and a CI page."""

    def __init__(self, job: SearchJob, *, stream: TextIO | None = None, forward: Callable[[str], None] | None = None) -> None:
        """`forward` gets the messages about what happens outside of trials, too."""
        self._trials, self._width = job.trials, len(str(job.trials - 1))
        self._score, self._goal = job.dataset.score, None if job.goal is None else job.goal.label
        self._stream = sys.stderr if stream is None else stream
        self._forward = forward
        self._search: SearchInfo | None = None
        self._results: list[TrialResult] = []
        self._running: set[int] = set()
        self._reused = 0

    def on_search_start(self, search: SearchInfo) -> None:
        self._search = search
        self._results = [result for result in search.results if result.state is not TrialState.RUNNING]
        self._reused = sum(result.origin is Origin.REUSED for result in self._results)

    def on_message(self, text: str) -> None:
        self.write(text)
        if self._forward is not None:
            self._forward(text)

    def on_wait(self, reason: str | None) -> None:
        self.write(reason or "trials run again")

    def write(self, text: str) -> None:
        """A line on the stream alone."""
        self._stream.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        self._stream.flush()

    def on_trial_start(self, result: TrialResult, target: str) -> None:
        self._running.add(result.number)
        self.write(f"{self._name(result)} starts: {self._target(result, target)}, {_knobs(result)}")

    def on_epoch_end(self, result: TrialResult, report: EpochReport) -> None:
        line = epoch_line(report, result.recipe.training.epochs, self._score)
        self.write(f"{self._name(result)} {line}{self._status()}")

    def on_trial_end(self, result: TrialResult, target: str) -> None:
        self._running.discard(result.number)
        self._results.append(result)
        self.write(f"{self._name(result)} {_outcome(result, self._score)}{self._status()}")

    def on_search_end(self, reason: str, refinements: int) -> None:
        more = "no recipe is refined: too few epochs are left for it (--final-share)"
        if refinements:
            more = f"{refinements} trials refine the best recipes"
        self._trials = len(self._results) - self._reused + len(self._running) + refinements
        self.write(f"the search ends: {reason}; {more}")

    def _name(self, result: TrialResult) -> str:
        done = len(self._results) - self._reused
        return f"trial {result.number:0{self._width}d} ({done}/{self._trials} done) {result.recipe.title}"

    def _target(self, result: TrialResult, target: str) -> str:
        if target == self._goal:
            return f"{format_flops(result.recipe.budget)} for {target}"
        return "no budget" if target == Target.FREE else f"budget {target}"

    def _cost(self, label: str, result: TrialResult) -> str:
        """Of the goal's model, whose FLOPs are what counts."""
        return f" at {format_flops(result.flops or 0)}" if label == self._goal else ""

    def _status(self) -> str:
        """The best trial for each budget so far, and the time left; empty where neither is known."""
        if self._search is None:
            return ""
        best = self._search.best(self._results)
        named = ", ".join(
            f"{label} {self._score.text(result.accuracy or 0.0)}{self._cost(label, result)} (trial {result.number})"
            for label, result in best.items()
        )
        left = self._search.seconds_left()
        parts = [f"best {named}"] if named else []
        parts += [f"about {format_duration(left)} left"] if left is not None else []
        parts += [spent] if (spent := self._search.spent()) else []
        return f" | {' | '.join(parts)}" if parts else ""


def _knobs(result: TrialResult) -> str:
    knobs = {name: value for step in result.recipe.steps for name, value in step.knobs.items()}
    return ", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in knobs.items())


def _outcome(result: TrialResult, score: Score) -> str:
    if result.duplicate_of is not None:
        return f"has the recipe of trial {result.duplicate_of}, and takes its result"
    if result.state is TrialState.COMPLETE:
        assert result.accuracy is not None and result.flops is not None
        found = f"{score.name} {score.text(result.accuracy)}"
        return f"ends: {found} at {format_flops(result.flops)} in {format_duration(result.seconds)}"
    if result.state is TrialState.STOPPED:
        return f"is stopped after {result.epochs:.3g} epochs: {result.stopped}"
    lines = (result.error or "").strip().splitlines()
    return f"{result.state.value}: {lines[-1] if lines else result.error_class}"
