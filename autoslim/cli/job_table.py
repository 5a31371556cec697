"""Jobs of the service, their trials and results as text."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autoslim.cli.table import Cell, columns, paragraph, state_text
from autoslim.config.setting import flag_name
from autoslim.core.budget import format_flops
from autoslim.core.duration import format_duration
from autoslim.core.figures import format_epochs, format_figure, format_millions
from autoslim.core.recipe import title_of
from autoslim.core.score import ACCURACY, SCORES, Score
from autoslim.core.selection import NO_TRIAL

if TYPE_CHECKING:
    from autoslim.client import JobReply, Result, Trial
    from autoslim.client.replies import SearchCost


def ago(moment: datetime.datetime) -> str:
    return f"{format_duration((datetime.datetime.now(datetime.UTC) - moment).total_seconds())} ago"


def done(job: JobReply) -> str:
    """`14/24`, or only `14` once the job has ended or refinement has added trials beyond the maximum."""
    count, trials = job.progress.trials_ended, job.progress.trials_total
    return f"{count}/{trials}" if trials and count <= trials and not job.ended else f"{count}"


def best(job: JobReply) -> str:
    return ", ".join(f"{label} {score_of(job).text(best.accuracy)}" for label, best in job.progress.best.items())


def score_of(job: JobReply) -> Score:
    """What the job's trials are compared by; a service that is older than this client compares accuracies."""
    return SCORES.get(job.score, ACCURACY)


def state(job: JobReply) -> str:
    """`QUEUED (2 ahead)`, `SEARCHING, started 3m02s ago, attempt 2`, `SUCCEEDED in 1h02m`."""
    parts = f"{job.state}{_ahead(job)}"
    if job.ended and job.ended_at and job.started_at:
        parts += f" in {format_duration((job.ended_at - job.started_at).total_seconds())}"
    elif job.started_at and not job.ended:
        parts += f", started {format_duration((datetime.datetime.now(datetime.UTC) - job.started_at).total_seconds())} ago"
    if job.attempt > 1:
        parts += f", attempt {job.attempt}"
    return parts + (f": {job.reason}" if job.reason else "")


def _ahead(job: JobReply) -> str:
    """How many jobs begin before a queued one; running ones are not among them."""
    if job.queue_position is None:
        return ""
    return f" ({job.queue_position} ahead)" if job.queue_position else " (the next to begin)"


def next_commands(job: JobReply) -> str:
    short = job.id
    if job.state == "SUCCEEDED":
        return f"autoslim pull {short}"
    if job.ended and job.failure and job.failure.next:
        return job.failure.next
    if job.ended:
        return f"autoslim logs {short}" if job.attempt else "autoslim jobs"
    return f"autoslim attach {short} | autoslim logs -f {short} | autoslim cancel {short}"


def table(jobs: list[JobReply]) -> list[str]:
    """One line per job."""
    head = ("ID", "NAME", "STATE", "TRIALS", "BEST", "CREATED")
    rows = [
        (job.id, job.name or "", state_text(job.state, _ahead(job)), done(job), best(job), ago(job.created_at)) for job in jobs
    ]
    return columns([head, *rows], header=True)


def page(job: JobReply) -> list[str]:
    """The state, request, result and next commands of one job."""
    spec = job.spec
    request = f"{spec.get('model')} on {spec.get('data')} to {', '.join(_wanted(spec))}"
    pairs: list[tuple[str, Cell]] = [
        ("Job", f"{job.id}{f'  {job.name}' if job.name else ''}"),
        ("State", state_text(job.state, state(job).removeprefix(job.state))),
        ("Request", request),
        ("Created", f"{job.created_at:%Y-%m-%d %H:%M:%S} UTC, {ago(job.created_at)}"),
    ]
    if not job.ended:
        found = best(job)
        pairs.append(("Trials", f"{done(job)}{f'; best {found}' if found else ''}"))
    if job.failure is not None:
        pairs.append(("Why", f"{job.failure.failure_class}: {job.failure.message}"))
    pairs += [(name, link) for name, link in (("Ray", job.links.get("ray")), ("MLflow", job.links.get("mlflow"))) if link]
    pairs.append(("Next", next_commands(job)))
    lines = columns(pairs, gap=4)
    if job.result is not None and job.result.models:
        lines += ["", *result(job.result, score_of(job))]
    return lines


def _wanted(spec: Mapping[str, Any]) -> list[str]:
    """What models are looked for, as flags where they are no budgets in FLOPs."""
    names = ("latency", "params", "max_drop", "min_accuracy")
    return [*(spec.get("flops") or ()), *(f"{flag_name(name)} {spec[name]}" for name in names if spec.get(name) is not None)]


def result(found: Result, score: Score = ACCURACY) -> list[str]:
    """The dense model, the chosen models, a line on each, the one that the numbers speak for, and the budgets without a model."""
    # A service that is older than this client does not say how many images there are.
    validation, test = found.images.get("validation"), found.images.get("test")
    heads = (f"validation {score.title}{score.interval_unit(validation)}", f"test {score.title}{score.interval_unit(test)}")
    rows = [("budget", "method", "FLOPs", "of budget", "params", *heads)]
    if found.dense is not None:
        dense = score.with_interval(found.dense.accuracy, validation)
        tested = score.with_interval(found.models[0].dense_test_accuracy, test) if found.models else ""
        rows.append(("dense", "", format_flops(found.dense.flops), "", "", dense, tested))
    for model in found.models:
        rows.append(
            (
                model.label,
                f"{title_of(model.method, model.model)} (trial {model.trial})",
                format_flops(model.flops or 0),
                f"{model.budget_share:.2%}",
                format_millions(model.params or 0),
                score.with_interval(model.accuracy or 0.0, validation),
                score.with_interval(model.test_accuracy, test),
            )
        )
    # A service that is older than this client has the reasons alone, which are longer.
    lines = [*columns(rows), *(paragraph(f"{label}: {line}") for label, line in (found.lines or found.reasons).items())]
    lines += [paragraph(f"{label}: {found.why_missing.get(label, NO_TRIAL)}") for label in found.missing]
    lines += [paragraph(found.recommended)] if found.recommended else []
    return lines if found.cost is None else [*lines, _cost(found.cost)]


def _cost(cost: SearchCost) -> str:
    money = "" if cost.money is None else f", {cost.money:.2f} at {cost.price:g} an hour"
    return f"Cost: {format_figure(cost.device_hours)} {cost.device} hours{money}; {format_figure(cost.bytes / 1e9, 2)} GB"


def trials(found: list[Trial], score: Score = ACCURACY, *, images: int | None = None) -> list[str]:
    """One line per trial; accuracies have their intervals where the number of validation `images` is known."""
    head = f"VALIDATION {score.title.upper()}{score.interval_unit(images)}"
    rows = [("TRIAL", "METHOD", "TARGET", "STATE", head, "FLOPS", "EPOCHS", "SECONDS")]
    for trial in found:
        rows.append(
            (
                f"{trial.number}",
                trial.method,
                trial.target,
                trial.state if trial.duplicate_of is None else f"as trial {trial.duplicate_of}",
                score.with_interval(trial.accuracy, images),
                "" if trial.flops is None else format_flops(trial.flops),
                "" if trial.epochs is None else format_epochs(trial.epochs),
                "" if trial.seconds is None else format_figure(trial.seconds),
            )
        )
    return columns(rows, header=True)
