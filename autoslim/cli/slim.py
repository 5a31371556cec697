"""`autoslim slim`: one model by given methods and knobs, in this process; neither Ray nor Optuna nor MLflow is imported."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoslim.cli import flags
from autoslim.cli.load_line import load_line
from autoslim.cli.parsing import CliInput, new_job
from autoslim.cli.progress import display_for
from autoslim.cli.table import columns, paragraph, warning
from autoslim.config import Commands, flag_name
from autoslim.config.pairs import parse_pairs
from autoslim.core.files import short_path
from autoslim.core.recipe import Knobs, TrainingSettings
from autoslim.errors import RequestError
from autoslim.progress.status import working
from autoslim.storage import StorageUri, upload_folder
from autoslim.storage.output_place import OutputPlace
from workers.search.signals import GracefulShutdown

if TYPE_CHECKING:
    from autoslim.slimming.request import SlimJob
    from autoslim.slimming.run import Slimmed

Methods = Annotated[
    list[str] | None, typer.Option("--method", help="Slimming method. Repeat the flag to apply several in order.")
]
KnobValues = Annotated[
    list[str] | None,
    typer.Option(
        "--knob",
        help="Knob as name=value or method.name=value. May be repeated. Knobs that decide the FLOPs are adjusted to the budget.",
    ),
]
First = Annotated[
    str | None,
    typer.Option(help="FLOPs after the first of several methods, such as 75% or 3.4G. Default: an even split in log FLOPs."),
]
Distillation = Annotated[
    float | None,
    typer.Option(help=f"Weight of the dense teacher's soft labels, 0 to 1. Default: {TrainingSettings().distillation}."),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, help="Threads of the training. Default: the CPUs that are idle at the start; with --latency torch's own number."
    ),
]

_DEFAULT_OUTPUT = "runs/slim"


@flags.with_flags(flags.job_flags(Commands.SLIM))
def slim(
    context: typer.Context,
    method: Methods = None,
    model: flags.OneModel = None,
    weights: flags.OneFileOfWeights = None,
    flops: flags.FlopsBudget = None,
    knob: KnobValues = None,
    first: First = None,
    distillation: Distillation = None,
    threads: Threads = None,
    output: flags.OutputFolder = _DEFAULT_OUTPUT,
    progress: flags.Progress = "auto",
    quiet: flags.Quiet = False,
    json: flags.Json = False,
) -> None:
    """Slim a model by one method, or by several in a row, without a search. Repeat the command to continue an interrupted run.

    Example: autoslim slim --method vit_slim --model deit_small_patch16_224 --data ./flowers --flops 2.3G --output runs/flowers-slim
    """
    display, place = display_for(progress, quiet=quiet), OutputPlace.parse(output)
    job = slim_job(CliInput.of(context), methods=method or [], knobs=knob or [], first=first, distillation=distillation)
    try:
        with display, GracefulShutdown():
            display.show(working("starting"))
            from autoslim.slimming.follow import run_slim

            slimmed = run_slim(job, place.folder, display, threads=threads)
            if place.uri is not None:
                upload_folder(place.folder, StorageUri.parse(place.uri), last="config.json")
    except KeyboardInterrupt:
        sys.stderr.write("stopped; finished epochs are kept. Repeat the command to continue\n")
        raise typer.Exit(130) from None
    sys.stdout.write((slimmed.to_json(indent=1) if json else _render(slimmed, place.uri)) + "\n")


def slim_job(
    cli_input: CliInput, *, methods: list[str], knobs: list[str], first: str | None, distillation: float | None
) -> SlimJob:
    """Raises RequestError naming the flag, its value and what is allowed."""
    from autoslim.slimming.asked import check_methods, slim_job_of

    check_methods(methods, name=flag_name)
    return slim_job_of(
        new_job(cli_input, None, Path()),
        knobs=parse_knobs(knobs, methods),
        first=first,
        distillation=distillation,
        name=flag_name,
    )


def parse_knobs(texts: list[str], methods: list[str]) -> dict[str, Knobs]:
    """Knobs by method: `name=value` is for the only method that has the knob, `method.name=value` for the named one.

    Raises:
        RequestError: for a knob that none, or more than one, of the methods has.
    """
    from autoslim.slimming.asked import Asked, knobs_by_method

    asked = []
    for text in texts:
        # The method stands before the first name alone.
        owner, _, rest = text.partition("=")[0].strip().rpartition(".")
        for name, value in _pairs(rest + text[len(text.partition("=")[0]) :]).items():
            # YAML, as in a search space, writes booleans in lower case.
            value = {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value
            asked.append(Asked(owner=owner, knob=name, value=value, written=f"--knob is {text!r}"))
    return knobs_by_method(asked, methods)


def _pairs(text: str) -> Knobs:
    try:
        return parse_pairs(text)
    except RequestError as error:
        raise RequestError(f"--knob: {error}") from error


def _render(slimmed: Slimmed, uri: str | None) -> str:
    from autoslim.slimming.slimmed_rows import slimmed_line, slimmed_rows

    lines = ["", *columns(slimmed_rows(slimmed)), "", paragraph(slimmed_line(slimmed)), *map(warning, slimmed.marked_forms)]
    if slimmed.latency is not None:
        lines.append(paragraph(f"Latency    {slimmed.latency.describe()}", indent=11))
    if slimmed.probe is not None:
        lines.append(f"Probe      {slimmed.probe.describe()}")
    lines += [paragraph(f"Files      {uri or short_path(slimmed.folder)} ({', '.join(slimmed.files)})", indent=11)]
    if slimmed.dense_folder is not None:
        lines.append(f"Dense      {short_path(slimmed.dense_folder)}, to be slimmed again as --model")
    lines.append(load_line(short_path(slimmed.folder)))
    return "\n".join(lines)
