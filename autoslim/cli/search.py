"""`autoslim search` and `autoslim plan`."""

from __future__ import annotations

import json as json_format
import shlex
import sys
from typing import Annotated

import typer

from autoslim.cli import flags as flag
from autoslim.cli.parsing import CliInput, new_job
from autoslim.cli.progress import display_for
from autoslim.cli.resume import resumed_job
from autoslim.cli.table import paragraph
from autoslim.config import Commands
from autoslim.core.run_folder import RunFolder
from autoslim.progress.status import working
from autoslim.storage.output_place import OutputPlace, local_folder

Resume = Annotated[
    bool, typer.Option("--resume", help="Continue the search in --output with the settings that it was started with.")
]

_DEFAULT_OUTPUT = "runs/search"


@flag.with_flags(flag.job_flags(Commands.SEARCH), flag.placement_flags())
def search(
    context: typer.Context,
    file: flag.JobFile = None,
    output: flag.OutputFolder = _DEFAULT_OUTPUT,
    resume: Resume = False,
    progress: flag.Progress = "auto",
    quiet: flag.Quiet = False,
    json: flag.Json = False,
) -> None:
    """Search for the best model within each FLOPs budget, in this process.

    Example: autoslim search --model deit_small_patch16_224 --data ./flowers --flops 2.3G --flops 50% --output runs/flowers

    Example: autoslim search job.yaml --trials 48
    """
    display = display_for(progress, quiet=quiet)
    cli_input, place = CliInput.of(context), OutputPlace.parse(output)
    if resume:
        from workers.search.kept_output import read_job

        job = resumed_job(read_job(place.folder, place.uri), cli_input, file, place.folder)
    else:
        job = new_job(cli_input, file, place.folder).replace(output_uri=place.uri)

    try:
        with display:
            # Ray, torch and what else a search needs take seconds to load.
            display.show(working("starting"))
            from workers.search.notified import run_notified

            summary = run_notified(job, resume=resume, display=display)
    except KeyboardInterrupt:
        sys.stderr.write(
            f"stopped; finished trials are kept. Go on with: autoslim search --resume --output {shlex.quote(output)}\n"
        )
        raise typer.Exit(130) from None
    from autoslim.cli.summary import show
    from workers.search.summary import exit_code

    show(summary, as_json=json)
    raise typer.Exit(exit_code(summary))


@flag.with_flags(flag.job_flags(Commands.SEARCH), flag.placement_flags())
def plan(
    context: typer.Context,
    file: flag.JobFile = None,
    output: flag.OutputFolder = _DEFAULT_OUTPUT,
    progress: flag.Progress = "auto",
    quiet: flag.Quiet = False,
    json: flag.Json = False,
) -> None:
    """Report what a search could reach and would cost, without training. The same flags as `search`.

    Example: autoslim plan --model deit_small_patch16_224 --data ./flowers --flops 2.3G
    """
    display = display_for(progress, quiet=quiet)
    place = OutputPlace.parse(output)
    job = new_job(CliInput.of(context), file, place.folder).replace(output_uri=place.uri)
    with display:
        display.show(working("starting"))
        from autoslim.cli.plan import made_plan

        report = made_plan(job, display, as_json=json)
    # Only now: while the display is there, stdout is no terminal.
    sys.stdout.write((report if json else "\n".join(paragraph(line, indent=10) for line in report.splitlines())) + "\n")


def sync_tracking(folder: str, *, as_json: bool = False) -> None:
    """Logs to MLflow what the store holds and MLflow does not."""
    from autoslim.core.urls import default_url
    from autoslim.report.tracking import MlflowSync
    from autoslim.store import Store

    output = local_folder(folder, "DIR").absolute()
    job = RunFolder(output).read_job().replace(output=str(output))
    with Store(job.storage or default_url(job.output)) as store:
        mirror = MlflowSync(store, job.id)
        changed = mirror.sync()
        report = {"runs": changed, "tracking_uri": mirror.uri}
        sys.stdout.write(
            json_format.dumps(report) + "\n" if as_json else f"{changed} runs brought up to date in MLflow at {mirror.uri}\n"
        )
