"""Follows a job on stderr: a line for each event, and in a terminal bars of the running trials below them."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import typer

from autoslim.cli import job_table
from autoslim.cli.table import STATE_STYLES
from autoslim.core.budget import format_flops
from autoslim.core.result import EpochReport
from autoslim.core.score import Score
from autoslim.progress.choice import terminal_display
from autoslim.progress.display import Display
from autoslim.progress.epoch_line import epoch_bar
from autoslim.progress.status import Bar, Status

if TYPE_CHECKING:
    from autoslim.client import Event, Job, JobReply

EXIT_INTERRUPTED = 130


def follow(job: Job) -> JobReply:
    """Blocks until the job ends and returns its last state. Ctrl-C detaches: the job continues, and the exit code is 130."""
    try:
        if not job.info.ended:
            with terminal_display("auto") as display:
                view = View(job.info, display)
                for event in job.events():
                    view.add(event)
        return job.refresh().info
    except KeyboardInterrupt:
        sys.stderr.write(f"\nDetached; the job continues.  {job_table.next_commands(job.info)}\n")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def exit_code(job: JobReply) -> int:
    """0 when every budget has a model, 3 when one has none, 1 when the job failed or was cancelled."""
    if job.state != "SUCCEEDED":
        return 3 if job.failure is not None and job.failure.failure_class == "INFEASIBLE" else 1
    return 3 if job.result is not None and job.result.missing else 0


class View:
    """The state of a job, from its events, on a display."""

    def __init__(self, info: JobReply, display: Display) -> None:
        self._display, self._state, self._score = display, info.state, job_table.score_of(info)
        self._done, self._trials = 0, info.progress.trials_total
        # A service that is older than this client may leave defaults out.
        self._epochs = info.spec.get("epochs")
        self._running: dict[int, Bar] = {}
        self._best: dict[str, str] = {}
        self._ends_at: float | None = None

    def add(self, event: Event) -> None:
        """Counts the event, and writes those that a person wants to know of."""
        data = event.data
        match event.type:
            case "state":
                self._state = str(data.get("state"))
                reason = f": {data['reason']}" if data.get("reason") else ""
                self._write(event, f"{self._state}{reason}", style=STATE_STYLES.get(self._state, ""))
            case "message":
                self._write(event, str(data.get("text", "")))
            case "trial_began":
                self._running[int(data["trial"])] = Bar(name=_trial(data))
            case "trial_reported":
                self._report(data)
            case "trial_ended":
                self._done += 1
                self._running.pop(int(data["trial"]), None)
                self._ends_at = _ends_at(event)
                self._write(event, f"{_trial(data)} {_ending(data, self._score)}")
            case "best":
                found = _result(data, self._score)
                self._best[str(data.get("label"))] = found
                self._write(event, f"best within {data.get('label')}: {found}")
        self._display.show(self.status())

    def _report(self, data: dict[str, Any]) -> None:
        metrics = {name: data[name] for name in ("loss", "accuracy", "images_per_second") if data.get(name) is not None}
        report = EpochReport.from_dict({"epoch": data["epoch"], "phase": data["phase"], "metrics": metrics})
        if self._epochs is not None:
            self._running[int(data["trial"])] = epoch_bar(_trial(data), report, float(self._epochs), self._score)

    def _write(self, event: Event, text: str, *, style: str = "") -> None:
        self._display.line(text, style=style, at=f"{event.at.astimezone():%H:%M:%S}" if event.at else "")

    def status(self) -> Status:
        known = bool(self._trials) and self._done <= (self._trials or 0)
        count = f"{self._done} of {self._trials} trials" if known else f"{self._done} trials"
        return Status(
            running=tuple(self._running[number] for number in sorted(self._running)),
            results=tuple((f"best {label}", found) for label, found in self._best.items()),
            overall=Bar(name=f"{self._state}  {count}", done=self._done, total=self._trials if known else None),
            ends_at=self._ends_at if self._state == "SEARCHING" else None,
        )


def _ends_at(event: Event) -> float | None:
    """When the job will end by the driver's own estimate, on the clock of `time.monotonic`; None where it has none."""
    left = event.data.get("seconds_left")
    if left is None or event.at is None:
        return None
    return time.monotonic() + float(left) - (time.time() - event.at.timestamp())


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
