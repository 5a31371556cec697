"""A job as it goes on, on stderr: lines for what happened, and in a terminal one line that always says how it stands."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from autoslim.cli import job_table
from autoslim.cli.table import STATE_COLOURS, paint
from autoslim.core.budget import format_flops
from autoslim.core.duration import format_duration

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.spinner import Spinner

    from autoslim.client import Event, Job, JobReply

EXIT_INTERRUPTED = 130


def follow(job: Job) -> JobReply:
    """Until the job ends; how it ended. Ctrl-C detaches: the job goes on, and the exit code is 130."""
    try:
        _follow(job)
        return job.refresh().info
    except KeyboardInterrupt:
        sys.stderr.write(f"\nDetached; the job goes on.  {job_table.next_commands(job.info)}\n")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def exit_code(job: JobReply) -> int:
    """0 when every budget has a model, 3 when one has none, 1 when the job failed or was cancelled."""
    if job.state != "SUCCEEDED":
        return 3 if job.failure is not None and job.failure.kind == "INFEASIBLE" else 1
    return 3 if job.result is not None and job.result.missing else 0


def _follow(job: Job) -> None:
    if job.info.ended:
        return
    view = View(job.info)
    with view.shown():
        for event in job.events():
            view.take(event)


class View:
    """How the job stands, as its events tell."""

    def __init__(self, info: JobReply) -> None:
        self._state, self._since = info.state, time.monotonic()
        self._done, self._trials = 0, info.progress.trials
        self._best: dict[str, float] = {}
        self._first: float | None = None
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

    def take(self, event: Event) -> None:
        """Counts it, and says what a person wants to know of it."""
        data = event.data
        match event.type:
            case "state":
                self._state = str(data.get("state"))
                reason = f": {data['reason']}" if data.get("reason") else ""
                self._say(event, paint(self._state, STATE_COLOURS.get(self._state), sys.stderr) + reason)
            case "message":
                self._say(event, str(data.get("text", "")))
            case "trial_ended":
                self._done += 1
                self._first = self._first or time.monotonic()
                self._say(event, f"{_trial(data)} {_ending(data)}")
            case "best":
                self._best[str(data.get("label"))] = float(data.get("accuracy") or 0.0)
                self._say(event, f"best within {data.get('label')}: {_result(data)}")

    def _say(self, event: Event, text: str) -> None:
        at = f"{event.at.astimezone():%H:%M:%S} " if event.at else ""
        if self._console is None:
            sys.stderr.write(f"{at}{text}\n")
            sys.stderr.flush()
        else:
            from rich.text import Text

            self._console.print(Text.from_ansi(at + text))

    def status(self) -> str:
        parts = [f"{self._done}{f'/{self._trials}' if self._trials and self._done <= self._trials else ''} trials"]
        if self._best:
            parts.append("best " + ", ".join(f"{label} {accuracy:.1%}" for label, accuracy in self._best.items()))
        left = self._seconds_left()
        if left is not None and self._state == "SEARCHING":
            parts.append(f"about {format_duration(left)} left")
        return f"{self._state}  " + "  |  ".join(parts)

    def _seconds_left(self) -> float | None:
        """From the trials that ended while this is shown."""
        if self._first is None or self._done < 2 or not self._trials or self._done >= self._trials:
            return None
        each = (time.monotonic() - self._first) / (self._done - 1)
        return each * (self._trials - self._done)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.spinner import Spinner

        self._spinner = self._spinner or Spinner("dots")
        self._spinner.update(text=self.status())
        yield self._spinner


def _trial(data: dict[str, Any]) -> str:
    method = f" {data['method']}" if data.get("method") else ""
    return f"trial {data.get('trial')}{method}"


def _ending(data: dict[str, Any]) -> str:
    state = str(data.get("state", "ended"))
    if data.get("duplicate_of") is not None:
        return f"is the same recipe as trial {data['duplicate_of']}"
    if state == "complete":
        return _result(data)
    error = str(data.get("error") or "").strip().splitlines()
    return f"{state}: {error[-1]}" if error else state


def _result(data: dict[str, Any]) -> str:
    if data.get("accuracy") is None:
        return "no accuracy"
    flops = f" at {format_flops(data['flops'])}" if data.get("flops") else ""
    return f"accuracy {float(data['accuracy']):.1%}{flops}"
