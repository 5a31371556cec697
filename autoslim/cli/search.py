"""`autoslim search` and `autoslim plan`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from autoslim.cli import flags as flag
from autoslim.cli.request import Typed, new_job
from autoslim.cli.resume import resumed_job
from autoslim.output import Output

Resume = Annotated[bool, typer.Option("--resume", help="Go on with the search in --output; the other flags are then known.")]

# Typer reads a command's flags off its signature, so every command spells them out; what they mean stands once, in `flags`.
_DEFAULT_OUTPUT = Path("runs/search")


def search(
    context: typer.Context,
    file: flag.JobFile = None,
    model: flag.Model = None,
    data: flag.Data = None,
    flops: flag.FlopsBudgets = None,
    weights: flag.Weights = None,
    from_scratch: flag.FromScratch = False,
    model_args: flag.ModelArgs = None,
    image_size: flag.ImageSize = None,
    space: flag.SpaceName = None,
    trials: flag.Trials = None,
    time: flag.Time = None,
    max_epochs: flag.MaxEpochs = None,
    plateau: flag.Plateau = None,
    final_share: flag.FinalShare = None,
    final_seeds: flag.FinalSeeds = None,
    price_per_hour: flag.PricePerHour = None,
    epochs: flag.Epochs = None,
    batch_size: flag.BatchSize = None,
    lr: flag.Rate = None,
    augmentation: flag.Augmentation = None,
    flip: flag.Flip = None,
    base_epochs: flag.BaseEpochs = None,
    base_lr: flag.BaseRate = None,
    train_limit: flag.TrainLimit = None,
    sampler: flag.Sampler = None,
    scheduler: flag.Scheduler = None,
    seed: flag.Seed = None,
    class_query: flag.ClassQuery = None,
    bound: flag.Bound = None,
    speed: flag.Speed = None,
    resources: flag.PerTrial = None,
    concurrency: flag.Concurrency = None,
    address: flag.Address = None,
    storage: flag.Storage = None,
    tracking_uri: flag.TrackingUri = None,
    output: flag.OutputFolder = _DEFAULT_OUTPUT,
    resume: Resume = False,
    json: flag.Json = False,
) -> None:
    """Search for the best model within each FLOPs budget, in this process.

    Example: autoslim search --model deit_small_patch16_224 --data ./flowers --flops 2.3G --flops 50% --output runs/flowers

    Example: autoslim search job.yaml --trials 48
    """
    typed = Typed.of(context)
    job = resumed_job(Output(output.absolute()).read_job(), typed, file, output) if resume else new_job(typed, file, output)

    from autoslim.cli.summary import show
    from workers.driver import exit_code, run_search

    try:
        summary = run_search(job, resume=resume)
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped; finished trials are kept. Go on with: autoslim search --resume --output {output}\n")
        raise typer.Exit(130) from None
    show(summary, as_json=json)
    raise typer.Exit(exit_code(summary))


def plan(
    context: typer.Context,
    file: flag.JobFile = None,
    model: flag.Model = None,
    data: flag.Data = None,
    flops: flag.FlopsBudgets = None,
    weights: flag.Weights = None,
    from_scratch: flag.FromScratch = False,
    model_args: flag.ModelArgs = None,
    image_size: flag.ImageSize = None,
    space: flag.SpaceName = None,
    trials: flag.Trials = None,
    time: flag.Time = None,
    max_epochs: flag.MaxEpochs = None,
    plateau: flag.Plateau = None,
    final_share: flag.FinalShare = None,
    final_seeds: flag.FinalSeeds = None,
    price_per_hour: flag.PricePerHour = None,
    epochs: flag.Epochs = None,
    batch_size: flag.BatchSize = None,
    lr: flag.Rate = None,
    augmentation: flag.Augmentation = None,
    flip: flag.Flip = None,
    base_epochs: flag.BaseEpochs = None,
    base_lr: flag.BaseRate = None,
    train_limit: flag.TrainLimit = None,
    sampler: flag.Sampler = None,
    scheduler: flag.Scheduler = None,
    seed: flag.Seed = None,
    class_query: flag.ClassQuery = None,
    bound: flag.Bound = None,
    speed: flag.Speed = None,
    resources: flag.PerTrial = None,
    concurrency: flag.Concurrency = None,
    address: flag.Address = None,
    storage: flag.Storage = None,
    tracking_uri: flag.TrackingUri = None,
    output: flag.OutputFolder = _DEFAULT_OUTPUT,
    json: flag.Json = False,
) -> None:
    """Say what a search could reach and would cost; trains nothing. The same flags as `search`.

    Example: autoslim plan --model deit_small_patch16_224 --data ./flowers --flops 2.3G
    """
    job = new_job(Typed.of(context), file, output)

    from autoslim.cli.foresee import show_plan

    show_plan(job, as_json=json)


def sync_tracking(output: Path) -> None:
    """Brings MLflow up to what the store holds."""
    from autoslim.store import Store, default_url
    from autoslim.tracking import Mirror

    job = Output(output.absolute()).read_job().replace(output=str(output.absolute()))
    with Store(job.storage or default_url(job.output)) as store:
        mirror = Mirror(store, job.id)
        changed = mirror.sync()
        sys.stdout.write(f"{changed} runs brought up to date in MLflow at {mirror.uri}\n")
