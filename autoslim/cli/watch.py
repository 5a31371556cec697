"""Follows a job on stderr: a line for each event, and in a terminal a status line below them."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from autoslim.cli import job_table
from autoslim.cli.table import Cell, state_text
from autoslim.core.budget import format_flops
from autoslim.core.duration import format_duration
from autoslim.core.score import Score

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.spinner import Spinner

    from autoslim.client import Event, Job, JobReply

EXIT_INTERRUPTED = 130


def follow(job: Job) -> JobReply:
    """Blocks until the job ends and returns its last state. Ctrl-C detaches: the job continues, and the exit code is 130."""
    try:
        _follow(job)
        return job.refresh().info
    except KeyboardInterrupt:
        sys.stderr.write(f"\nDetached; the job continues.  {job_table.next_commands(job.info)}\n")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def exit_code(job: JobReply) -> int:
    """0 when every budget has a model, 3 when one has none, 1 when the job failed or was cancelled."""
    if job.state != "SUCCEEDED":
        return 3 if job.failure is not None and job.failure.failure_class == "INFEASIBLE" else 1
    return 3 if job.result is not None and job.result.missing else 0


def _follow(job: Job) -> None:
    if job.info.ended:
        return
    view = View(job.info)
    with view.shown():
        for event in job.events():
            view.add(event)


class View:
    """The state of a job, from its events."""

    def __init__(self, info: JobReply) -> None:
        self._state, self._score = info.state, job_table.score_of(info)
        self._done, self._trials = 0, info.progress.trials_total
        self._best: dict[str, float] = {}
        self._ends_at: float | None = None
        self._console: Console | None = None
        self._spinner: Spinner | None = None

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        if not sys.stderr.isatty():
            yield
            return
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True, highlight=False)
        with Live(self, console=self._console, transient=True, refresh_per_second=4):
            yield

    def add(self, event: Event) -> None:
        """Counts the event, and prints those that a person wants to know of."""
        data = event.data
        match event.type:
            case "state":
                self._state = str(data.get("state"))
                reason = f": {data['reason']}" if data.get("reason") else ""
                self._print(event, state_text(self._state, reason))
            case "message":
                self._print(event, str(data.get("text", "")))
            case "trial_ended":
                self._done += 1
                self._ends_at = _ends_at(event)
                self._print(event, f"{_trial(data)} {_ending(data, self._score)}")
            case "best":
                self._best[str(data.get("label"))] = float(data.get("accuracy") or 0.0)
                self._print(event, f"best within {data.get('label')}: {_result(data, self._score)}")

    def _print(self, event: Event, text: Cell) -> None:
        from rich.text import Text

        line = Text.assemble(f"{event.at.astimezone():%H:%M:%S} " if event.at else "", text)
        if self._console is None:
            sys.stderr.write(f"{line.plain}\n")
            sys.stderr.flush()
        else:
            self._console.print(line)

    def status(self) -> str:
        parts = [f"{self._done}{f'/{self._trials}' if self._trials and self._done <= self._trials else ''} trials"]
        if self._best:
            parts.append("best " + ", ".join(f"{label} {self._score.text(value)}" for label, value in self._best.items()))
        if self._ends_at is not None and self._state == "SEARCHING":
            parts.append(f"about {format_duration(max(0.0, self._ends_at - time.time()))} left")
        return f"{self._state}  " + "  |  ".join(parts)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.spinner import Spinner

        self._spinner = self._spinner or Spinner("dots")
        self._spinner.update(text=self.status())
        yield self._spinner


def _ends_at(event: Event) -> float | None:
    """The Unix time at which the job will end, by the driver's own estimate; None where it has none."""
    left = event.data.get("seconds_left")
    return None if left is None or event.at is None else event.at.timestamp() + float(left)


def _trial(data: dict[str, Any]) -> str:
    method = f" {data['method']}" if data.get("method") else ""
    return f"trial {data.get('trial')}{method}"


def _ending(data: dict[str, Any], score: Score) -> str:
    state = str(data.get("state", "ended"))
    if data.get("duplicate_of") is not None:
        return f"is the same recipe as trial {data['duplicate_of']}"
    if state == "complete":
        return _result(data, score)
    error = str(data.get("error") or "").strip().splitlines()
    return f"{state}: {error[-1]}" if error else state


def _result(data: dict[str, Any], score: Score) -> str:
    if data.get("accuracy") is None:
        return f"no {score.name}"
    flops = f" at {format_flops(data['flops'])}" if data.get("flops") else ""
    return f"{score.name} {score.text(float(data['accuracy']))}{flops}"
