"""`autoslim search` and `autoslim plan`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from autoslim.cli.request import Words, new_job, resumed_job
from autoslim.output import Output

Model = Annotated[str | None, typer.Option(help="timm name of a ViT or DeiT, or a folder in timm's hub format.")]
Data = Annotated[str | None, typer.Option(help="Parquet file, folder (Parquet splits or ImageFolder), or `digits`.")]
FlopsBudgets = Annotated[list[str] | None, typer.Option("--flops", help="Budget as 2.3G, 850M or 50%; may be repeated.")]
Weights = Annotated[Path | None, typer.Option(help="safetensors or weights-only state dict.")]
FromScratch = Annotated[bool, typer.Option("--from-scratch", help="No pretrained weights: the dense model is trained first.")]
ModelArgs = Annotated[str | None, typer.Option(help="Arguments of timm.create_model as k=v,k=v.")]
ImageSize = Annotated[int | None, typer.Option(help="Square image size in pixels; default the model's own.")]
SpaceName = Annotated[str | None, typer.Option("--space", help="Search space by name or YAML file; default `default`.")]
Trials = Annotated[int | None, typer.Option(help="How many recipes are tried; default 24.")]
Epochs = Annotated[float | None, typer.Option(help="Epochs of a trial, the method's own training included; default 3.")]
BatchSize = Annotated[int | None, typer.Option(help="Default 64.")]
Rate = Annotated[float | None, typer.Option("--lr", help="Peak learning rate where the space does not search it; default 5e-4.")]
Augmentation = Annotated[str | None, typer.Option(help="none, light or strong; default light.")]
Flip = Annotated[bool | None, typer.Option("--flip/--no-flip", help="Mirror training images; default yes, but not for digits.")]
BaseEpochs = Annotated[float | None, typer.Option(help="Epochs of adapting the dense model, where that is needed; default 10.")]
BaseRate = Annotated[float | None, typer.Option("--base-lr", help="Its peak learning rate; default that of --lr.")]
TrainLimit = Annotated[int | None, typer.Option(help="Use only so many training images (stratified).")]
Sampler = Annotated[str | None, typer.Option(help="tpe or random; default tpe.")]
Seed = Annotated[int | None, typer.Option(help="Default 0.")]
PerTrial = Annotated[
    str | None,
    typer.Option(
        "--resources", help="What one trial takes, as gpu=1,cpu=4; fractions share a device; default a GPU, or one CPU."
    ),
]
Concurrency = Annotated[int | None, typer.Option(help="Trials at a time; default as many as fit.")]
Address = Annotated[str | None, typer.Option(help="Ray cluster; default a local one on loopback.")]
Storage = Annotated[str | None, typer.Option(help="SQLAlchemy URL of the store; default SQLite in the output folder.")]
TrackingUri = Annotated[str | None, typer.Option(help="MLflow server; default SQLite in the output folder.")]
OutputFolder = Annotated[Path, typer.Option("--output", help="Where everything goes.")]
ClassQuery = Annotated[
    bool | None,
    typer.Option("--class-query/--no-class-query", help="Compute only the prefix tokens in the last block; same logits."),
]
Bound = Annotated[str | None, typer.Option(help="A budget holds for every image (max) or in the mean (mean); default max.")]
Speed = Annotated[
    str | None,
    typer.Option(
        help="How the speed of the models is measured: eager,compiled,onnxruntime (the default), fewer of them, or none."
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the search in --output; the other flags are then known.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]

# Typer reads a command's flags off its signature, so `search` and `plan` each spell them out; what they mean stands once, above.
_DEFAULT_OUTPUT = Path("runs/search")


def search(
    model: Model = None,
    data: Data = None,
    flops: FlopsBudgets = None,
    weights: Weights = None,
    from_scratch: FromScratch = False,
    model_args: ModelArgs = None,
    image_size: ImageSize = None,
    space: SpaceName = None,
    trials: Trials = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Rate = None,
    augmentation: Augmentation = None,
    flip: Flip = None,
    base_epochs: BaseEpochs = None,
    base_lr: BaseRate = None,
    train_limit: TrainLimit = None,
    sampler: Sampler = None,
    seed: Seed = None,
    class_query: ClassQuery = None,
    bound: Bound = None,
    speed: Speed = None,
    resources: PerTrial = None,
    concurrency: Concurrency = None,
    address: Address = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    output: OutputFolder = _DEFAULT_OUTPUT,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Search for the best model within each FLOPs budget.

    Example: autoslim search --model deit_small_patch16_224 --data ./flowers --flops 2.3G --flops 50% --output runs/flowers
    """
    values = {name: value for name, value in locals().items() if name not in ("resume", "json")}
    words = Words(**{**values, "flops": flops or [], "output": output.absolute()})
    job = resumed_job(Output(words.output).read_job(), words) if resume else new_job(words)

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
    model: Model = None,
    data: Data = None,
    flops: FlopsBudgets = None,
    weights: Weights = None,
    from_scratch: FromScratch = False,
    model_args: ModelArgs = None,
    image_size: ImageSize = None,
    space: SpaceName = None,
    trials: Trials = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Rate = None,
    augmentation: Augmentation = None,
    flip: Flip = None,
    base_epochs: BaseEpochs = None,
    base_lr: BaseRate = None,
    train_limit: TrainLimit = None,
    sampler: Sampler = None,
    seed: Seed = None,
    class_query: ClassQuery = None,
    bound: Bound = None,
    speed: Speed = None,
    resources: PerTrial = None,
    concurrency: Concurrency = None,
    address: Address = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    output: OutputFolder = _DEFAULT_OUTPUT,
    json: Json = False,
) -> None:
    """Say what a search could reach and would cost; trains nothing. The same flags as `search`."""
    values = {name: value for name, value in locals().items() if name != "json"}
    job = new_job(Words(**{**values, "flops": flops or [], "output": output.absolute()}))

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
