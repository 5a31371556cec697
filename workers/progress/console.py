"""The search on a display: lines for job, trial and epoch, bars of what runs, the best model for each budget, the time left."""

from __future__ import annotations

import time
from collections.abc import Callable

from autoslim.core.budget import format_flops
from autoslim.core.duration import format_duration
from autoslim.core.job import SearchJob
from autoslim.core.result import EpochReport, Origin, Target, TrialResult, TrialState
from autoslim.core.score import Score
from autoslim.progress.display import Display, LineDisplay
from autoslim.progress.epoch_line import epoch_bar, epoch_line
from autoslim.progress.preparing import Preparing
from autoslim.progress.status import Bar, Status, working
from workers.progress.callbacks import SearchCallback, SearchInfo, SearchStage
from workers.progress.cost import finalize_seconds

_STYLES = {TrialState.STOPPED: "dim", TrialState.INFEASIBLE: "dim", TrialState.FAILED: "red"}
"""Of the line of a trial that has ended, by its state."""


class Console(SearchCallback):
    """Needs a `display` that is entered; by default each event is a line on stderr."""

    def __init__(self, job: SearchJob, display: Display | None = None, *, forward: Callable[[str], None] | None = None) -> None:
        """`forward` gets the messages about what happens outside of trials, too."""
        self._job, self._width = job, len(str(job.trials - 1))
        self._trials, self._score = job.trials, job.dataset.score
        self._goal = None if job.goal is None else job.goal.label
        self._display = LineDisplay() if display is None else display
        self._forward = forward
        self._search: SearchInfo | None = None
        self._results: list[TrialResult] = []
        self._running: dict[int, Bar] = {}
        self._reused = 0
        self._waits: str | None = None
        self._began = time.monotonic()

    # Outside of trials

    def write(self, text: str) -> None:
        """A line on the display alone."""
        self._display.line(text)

    def on_message(self, text: str) -> None:
        self._display.line(text)
        self._pass_on(text)

    def on_step(self, name: str) -> None:
        """Something begins of which nothing is known until it ends."""
        self._display.show(working(name))

    def on_images(self, text: str) -> None:
        """A line on how far the preparation of images is."""
        self._display.detail(text)
        self._pass_on(text)

    def watch_images(self) -> Preparing:
        """What gets the numbers of prepared images."""
        return Preparing(self._display)

    def on_base_epoch(self, name: str, report: EpochReport, epochs: float) -> None:
        """An epoch of the dense model `name`, of `epochs`."""
        text = f"{name}: {epoch_line(report, epochs)}"
        self._display.detail(text)
        self._display.show(Status(running=(epoch_bar(name, report, epochs),)))
        self._pass_on(text)

    def _pass_on(self, text: str) -> None:
        if self._forward is not None:
            self._forward(text)

    # The trials

    def on_search_start(self, search: SearchInfo) -> None:
        self._search, self._began = search, time.monotonic()
        self._results = [result for result in search.results if result.state is not TrialState.RUNNING]
        self._reused = sum(result.origin is Origin.REUSED for result in self._results)
        self._show()

    def on_stage_start(self, stage: SearchStage) -> None:
        if stage is SearchStage.FINALIZING:
            running = (Bar(name="evaluating and exporting"),)
            self._display.show(Status(running=running, ends_at=time.monotonic() + finalize_seconds(self._job)))

    def on_wait(self, reason: str | None) -> None:
        self._waits = reason
        self.write(reason or "trials run again")
        self._show()

    def on_slots_change(self, slots: int) -> None:
        self.on_message(f"{slots} trial{'' if slots == 1 else 's'} at a time from now on: the nodes of the cluster are others")
        self._show()

    def on_trial_lost(self, result: TrialResult, reason: str) -> None:
        self.on_message(f"{self._name(result)} goes on from its checkpoint: {reason}")

    def on_trial_start(self, result: TrialResult, target: str) -> None:
        name = f"trial {result.number:0{self._width}d} {result.recipe.title} {'' if target == Target.FREE else target}".rstrip()
        self._running[result.number] = Bar(name=name)
        self._display.detail(f"{self._name(result)} starts: {self._target(result, target)}, {_knobs(result)}")
        self._show()

    def on_trial_opening(self, result: TrialResult, line: str) -> None:
        self.on_images(f"{self._name(result)} does not train yet: {line}")

    def on_epoch_end(self, result: TrialResult, report: EpochReport) -> None:
        epochs = result.recipe.training.epochs
        self._display.detail(f"{self._name(result)} {epoch_line(report, epochs, self._score)}{self._status()}")
        if result.number in self._running:
            self._running[result.number] = epoch_bar(self._running[result.number].name, report, epochs, self._score)
        self._show()

    def on_trial_end(self, result: TrialResult, target: str) -> None:
        self._running.pop(result.number, None)
        self._results.append(result)
        text = f"{self._name(result)} {_outcome(result, self._score)}"
        # First its bar goes: the line draws the bars anew.
        self._show()
        self._display.line(text, status=self._status(), style=_STYLES.get(result.state, ""))

    def on_search_end(self, reason: str, refinements: int) -> None:
        more = "no recipe is refined: too few epochs are left for it (--final-share)"
        if refinements:
            more = "1 trial refines the best recipe" if refinements == 1 else f"{refinements} trials refine the best recipes"
        self._trials = self._done + len(self._running) + refinements
        self.write(f"the search ends: {reason}; {more}")
        self._show()

    @property
    def _done(self) -> int:
        return len(self._results) - self._reused

    def _name(self, result: TrialResult) -> str:
        return f"trial {result.number:0{self._width}d} ({self._done}/{self._trials} done) {result.recipe.title}"

    # What is known so far

    def _best(self) -> dict[str, TrialResult]:
        if self._search is None:
            return {}
        return self._search.best(self._results)

    def _seconds_left(self) -> float | None:
        return None if self._search is None else self._search.seconds_left()

    def _target(self, result: TrialResult, target: str) -> str:
        if target == self._goal:
            return f"{format_flops(result.recipe.budget)} for {target}"
        return "no budget" if target == Target.FREE else f"budget {target}"

    def _cost(self, label: str, result: TrialResult) -> str:
        """Of the goal's model, whose FLOPs are what counts."""
        return f" at {format_flops(result.flops or 0)}" if label == self._goal else ""

    def _status(self) -> str:
        """The best trial for each budget so far, and the time left, behind a line; empty where neither is known."""
        if self._search is None:
            return ""
        named = ", ".join(
            f"{label} {self._score.text(result.accuracy or 0.0)}{self._cost(label, result)} (trial {result.number})"
            for label, result in self._best().items()
        )
        left = self._seconds_left()
        parts = [f"best {named}"] if named else []
        parts += [f"about {format_duration(left)} left"] if left is not None else []
        parts += [spent] if (spent := self._search.spent()) else []
        return f" | {' | '.join(parts)}" if parts else ""

    def _show(self) -> None:
        if self._search is None:
            return
        left = self._seconds_left()
        results = tuple((f"best {label}", _point(result, self._score)) for label, result in self._best().items())
        running = tuple(self._running[number] for number in sorted(self._running))
        self._display.show(
            Status(
                running=running,
                results=results,
                overall=self._overall(left),
                ends_at=None if left is None else time.monotonic() + left,
            )
        )

    def _overall(self, left: float | None) -> Bar:
        """By trials; where something else ends the search, such as `--time`, by the time that it takes. What is left of the limits, too."""
        job = self._job
        unspent = "" if self._search is None else self._search.unspent()
        facts = (*(("trials wait",) if self._waits else ()), *((unspent,) if unspent else ()))
        if job.max_seconds is None and job.max_epochs is None and job.plateau is None:
            return Bar(name=f"{self._done} of {self._trials} trials", done=self._done, total=self._trials, facts=facts)
        passed = time.monotonic() - self._began
        total = None if left is None else passed + left
        return Bar(name=f"{self._done} trials", done=passed, total=total, facts=facts)


def _knobs(result: TrialResult) -> str:
    knobs = {name: value for step in result.recipe.steps for name, value in step.knobs.items()}
    return ", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in knobs.items())


def _point(result: TrialResult, score: Score) -> str:
    return (
        f"{score.text(result.accuracy or 0.0)} at {format_flops(result.flops or 0)}, trial {result.number} {result.recipe.title}"
    )


def _outcome(result: TrialResult, score: Score) -> str:
    if result.duplicate_of is not None:
        return f"has the recipe of trial {result.duplicate_of}, and takes its result"
    if result.state is TrialState.COMPLETE:
        assert result.accuracy is not None and result.flops is not None
        found = f"{score.name} {score.text(result.accuracy)}"
        return f"ends: {found} at {format_flops(result.flops)} in {format_duration(result.seconds)}"
    if result.state is TrialState.STOPPED:
        return f"is stopped: {result.stopped}"
    lines = (result.error or "").strip().splitlines()
    return f"{result.state.value}: {lines[-1] if lines else result.error_class}"
