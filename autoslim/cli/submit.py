"""`autoslim submit`: the same request as `search`, to the service."""

from __future__ import annotations

import contextlib
import json as json_format
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoslim.cli import flags as flag
from autoslim.cli import job_table, watch
from autoslim.cli.parsing import CliInput, fields_of, spec_of
from autoslim.cli.remote import Url, connect
from autoslim.cli.table import columns
from autoslim.config import Commands, JobSpec, settings_of
from autoslim.core.budget import format_flops
from autoslim.core.figures import format_figure, format_millions
from autoslim.core.recipe import title_of
from autoslim.core.score import ACCURACY, SCORES

if TYPE_CHECKING:
    from autoslim.client import JobReply

Wait = Annotated[bool, typer.Option("--wait", help="Follow the job until it ends. Ctrl-C detaches; the job continues.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Report what the job could reach and would cost; nothing is queued.")]
IdempotencyKey = Annotated[
    str | None,
    typer.Option(help="Submitting again with the same key returns the same job. Default: a new key.", show_default=False),
]


@flag.with_flags(flag.job_flags(Commands.SUBMIT))
def submit(
    context: typer.Context,
    file: flag.JobFile = None,
    wait: Wait = False,
    dry_run: DryRun = False,
    idempotency_key: IdempotencyKey = None,
    url: Url = None,
    json: flag.Json = False,
) -> None:
    """Queue a search at the service and print its id.

    Example: autoslim submit job.yaml --wait

    Example: autoslim submit --model deit_small_patch16_224 --data flowers --flops 50% --name flowers
    """
    cli_input = CliInput.of(context)
    spec = spec_of(cli_input, file)
    with connect(url) as client:
        with _named_by_flag(cli_input, file):
            if dry_run:
                plan = client.plan(spec)
                sys.stdout.write((json_format.dumps(plan) if json else _render(plan)) + "\n")
                return
            job = client.submit(spec, idempotency_key=idempotency_key)
        sys.stderr.write(f"Job {job.id}  {job_table.state(job.info)}\n")
        if not wait:
            sys.stderr.write(f"Next: {job_table.next_commands(job.info)}\n")
            sys.stdout.write((job.info.model_dump_json() if json else job.id) + "\n")
            return
        end = watch.follow(job)
    show_job(end, as_json=json)
    raise typer.Exit(watch.exit_code(end))


def show_job(job: JobReply, *, as_json: bool) -> None:
    sys.stdout.write((job.model_dump_json() if as_json else "\n".join(job_table.page(job))) + "\n")


@contextlib.contextmanager
def _named_by_flag(cli_input: CliInput, file: Path | None) -> Iterator[None]:
    """Names the fields of an error from the service by the flag or the file that set them."""
    from autoslim.client import InvalidSpecError

    try:
        yield
    except InvalidSpecError as error:
        if not error.errors:
            raise
        lines = [_line(pointer, detail, cli_input, file) for pointer, detail in error.errors]
        raise type(error)("\n".join(lines), code=error.code, status=error.status, errors=error.errors) from None


def _line(pointer: str, detail: str, cli_input: CliInput, file: Path | None) -> str:
    field = pointer.split("/")[1] if "/" in pointer else ""
    setting = settings_of(JobSpec).get(field)
    if setting is None or not detail.startswith(field):
        return detail
    name = cli_input.name(setting) if file is None or field in fields_of(cli_input, JobSpec) else f"{file}: {field}"
    return f"{name} {detail.partition(' ')[2]}"


def _render(plan: dict[str, Any]) -> str:
    """A line for each budget and method: some methods may not reach a budget."""
    rows = [("budget", "multiply-accumulates", "method", "cheapest", "costliest", "")]
    for budget in plan["budgets"]:
        label, flops = budget["label"], f"{budget['flops']:,}"
        for method in budget["methods"]:
            feasibility = [format_flops(method[end]) if method[end] is not None else "-" for end in ("min_flops", "max_flops")]
            name = title_of(method["name"], method.get("model"))
            rows.append((label, flops, name, *feasibility, "" if method["feasible"] else "not feasible"))
            label = flops = ""
    images, estimate, prior = plan["images"], plan["estimate"], plan["prior"]
    work = format_figure(estimate["multiply_accumulates"] / 1e9)
    lines = [
        f"Model     {format_flops(plan['dense_flops'])} multiply-accumulates, {format_millions(plan['params'])} parameters",
        *map(_model_line, plan.get("models", [])),
        f"Data      {images['train']:,} train, {images['validation']:,} validation, {images['test']:,} test; {plan['classes']} classes",
        f"Trials    {plan['trials']} of {plan['epochs']:g} epochs",
        *([f"Goal      {plan['goal']}: what it costs is what the search looks for"] if plan.get("goal") else []),
        *_score_line(plan),
        f"Prior     {prior['trials']} trials of other models ({prior['models']})",
        f"Work      {estimate['training_images']:,} images to train on, {work}G multiply-accumulates",
        f"Disk      up to {estimate['disk_bytes'] / 1e9:.2f} GB, besides the images",
        *(["", *columns(rows)] if plan["budgets"] else []),
        *(f"{name} cannot slim this model: {reason}" for name, reason in plan["excluded_methods"].items()),
    ]
    return "\n".join(lines)


def _score_line(plan: dict[str, Any]) -> list[str]:
    """What trials are compared by, where it is not accuracy; an older service does not say."""
    score = SCORES.get(plan.get("score", ACCURACY.name), ACCURACY)
    return [] if score is ACCURACY else [f"Score     {score.meaning}"]


def _model_line(model: dict[str, Any]) -> str:
    """Of one of several dense models that the search starts from."""
    flops, parameters = format_flops(model["dense_flops"]), format_millions(model["params"])
    return f"          {model['name']}: {flops} multiply-accumulates, {parameters} parameters"
