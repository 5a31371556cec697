"""The flags that more than one command has, each with its meaning and its environment variable."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer


def flag(name: str, help: str, **more: Any) -> Any:
    """`--batch-size`, which AUTOSLIM_BATCH_SIZE stands in for."""
    variable = "AUTOSLIM_" + name.partition("/")[0].removeprefix("--").upper().replace("-", "_")
    return typer.Option(name, help=help, envvar=variable, show_envvar=False, **more)


JobFile = Annotated[Path | None, typer.Argument(metavar="JOB.YAML", help="A job file; flags take the place of its fields.")]
Model = Annotated[str | None, flag("--model", "timm name of a ViT or DeiT, or a folder in timm's hub format.")]
Data = Annotated[str | None, flag("--data", "Parquet file, folder (Parquet splits or ImageFolder), or `digits`.")]
FlopsBudgets = Annotated[list[str] | None, flag("--flops", "Budget as 2.3G, 850M or 50%; may be repeated.")]
ParamsLimit = Annotated[str | None, flag("--params", "Most parameters, as 12M; beside --flops or instead of it.")]
LatencyLimit = Annotated[
    str | None, flag("--latency", "Longest time of a batch, as 5ms@1 (5 ms at batch 1); beside --flops or instead of it.")
]
LatencyMode = Annotated[
    str | None, flag("--latency-mode", "How --latency runs a model: eager, compiled or onnxruntime; default eager.")
]
Weights = Annotated[Path | None, flag("--weights", "safetensors or weights-only state dict.")]
FromScratch = Annotated[bool, flag("--from-scratch", "No pretrained weights: the dense model is trained first.")]
ModelArgs = Annotated[str | None, flag("--model-args", "Arguments of timm.create_model as k=v,k=v.")]
ImageSize = Annotated[int | None, flag("--image-size", "Square image size in pixels; default the model's own.")]
SpaceName = Annotated[str | None, flag("--space", "Search space by name or YAML file; default `default`.")]
Trials = Annotated[
    int | None, flag("--trials", "Recipes tried at most; default 24, or 1000 where time, epochs or a plateau end the search.")
]
Time = Annotated[str | None, flag("--time", "Wall time of the trials, as 2h or 90m.")]
MaxEpochs = Annotated[float | None, flag("--max-epochs", "Epochs of all trials together, those of the end included.")]
Plateau = Annotated[int | None, flag("--plateau", "End when the hypervolume has not grown in so many trials.")]
FinalShare = Annotated[
    float | None,
    flag("--final-share", "Share of the compute for tuning the best recipes longer; default 0.25, 0 for not at all."),
]
FinalSeeds = Annotated[int | None, flag("--final-seeds", "Seeds that each of the best recipes is tuned with; default 1.")]
PricePerHour = Annotated[
    float | None, flag("--price-per-hour", "Of one device, a GPU or where there is none a CPU, for the cost.")
]
Reuse = Annotated[
    list[str] | None,
    flag("--reuse", "Earlier search: its folder (with a / in it), its id in the same store, or `all` there; may be repeated."),
]
Epochs = Annotated[float | None, flag("--epochs", "Epochs of a trial, the method's own training included; default 3.")]
BatchSize = Annotated[int | None, flag("--batch-size", "Default 64.")]
Rate = Annotated[float | None, flag("--lr", "Peak learning rate where the space does not search it; default 5e-4.")]
Augmentation = Annotated[str | None, flag("--augmentation", "none, light or strong; default light.")]
Flip = Annotated[bool | None, flag("--flip/--no-flip", "Mirror training images; default yes, but not for digits.")]
BaseEpochs = Annotated[
    float | None, flag("--base-epochs", "Epochs of adapting the dense model, where that is needed; default 10.")
]
BaseRate = Annotated[float | None, flag("--base-lr", "Its peak learning rate; default that of --lr.")]
TrainLimit = Annotated[int | None, flag("--train-limit", "Use only so many training images (stratified).")]
Sampler = Annotated[str | None, flag("--sampler", "forest, tpe, nsga2, nsga3, gp or random; default forest.")]
Pruner = Annotated[str | None, flag("--scheduler", "What stops trials early: halving, median or none; default halving.")]
Seed = Annotated[int | None, flag("--seed", "Of the splits, the recipes and the training; default 0.")]
ClassQuery = Annotated[
    bool | None, flag("--class-query/--no-class-query", "Compute only the prefix tokens in the last block; same logits.")
]
Bound = Annotated[str | None, flag("--bound", "A budget holds for every image (max) or in the mean (mean); default max.")]
Speed = Annotated[
    str | None,
    flag("--speed", "How the speed of the models is measured: eager,compiled,onnxruntime (the default), fewer of them, or none."),
]
Name = Annotated[str | None, flag("--name", "A label to find the job by: lower-case letters, digits and hyphens.")]
Priority = Annotated[int | None, flag("--priority", "0 to 9; of queued jobs the one with the highest is begun first; default 5.")]

PerTrial = Annotated[
    str | None,
    flag("--resources", "What one trial takes, as gpu=1,cpu=4; fractions share a device; default a GPU, or one CPU."),
]
Concurrency = Annotated[int | None, flag("--concurrency", "Trials at a time; default as many as fit.")]
Address = Annotated[str | None, flag("--address", "Ray cluster; default a local one on loopback.")]
Storage = Annotated[str | None, flag("--storage", "SQLAlchemy URL of the store; default SQLite in the output folder.")]
TrackingUri = Annotated[str | None, flag("--tracking-uri", "MLflow server; default SQLite in the output folder.")]
OutputFolder = Annotated[Path, flag("--output", "Where everything goes.")]

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


class SpecFlags:
    """What makes a request, in the order of `--help`."""

    model: Model = None
    data: Data = None
    flops: FlopsBudgets = None
    latency: LatencyLimit = None
    latency_mode: LatencyMode = None
    params: ParamsLimit = None
    weights: Weights = None
    from_scratch: FromScratch = False
    model_args: ModelArgs = None
    image_size: ImageSize = None
    space: SpaceName = None
    trials: Trials = None
    time: Time = None
    max_epochs: MaxEpochs = None
    plateau: Plateau = None
    final_share: FinalShare = None
    final_seeds: FinalSeeds = None
    price_per_hour: PricePerHour = None
    reuse: Reuse = None
    epochs: Epochs = None
    batch_size: BatchSize = None
    lr: Rate = None
    augmentation: Augmentation = None
    flip: Flip = None
    base_epochs: BaseEpochs = None
    base_lr: BaseRate = None
    train_limit: TrainLimit = None
    sampler: Sampler = None
    scheduler: Pruner = None
    seed: Seed = None
    class_query: ClassQuery = None
    bound: Bound = None
    speed: Speed = None
    name: Name = None
    priority: Priority = None


class PlacementFlags:
    """Where it runs and writes."""

    resources: PerTrial = None
    concurrency: Concurrency = None
    address: Address = None
    storage: Storage = None
    tracking_uri: TrackingUri = None


def with_flags(*groups: type, leaving: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the flags of `groups`, but for those in `leaving`, behind its arguments and before its own flags.

    The command reads them off its context (`request.CliInput`); Typer reads them off the signature that is made here.
    """

    def give(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command, eval_str=True).parameters.values())
        shared = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=getattr(group, name), annotation=annotation)
            for group in groups
            for name, annotation in typing.get_type_hints(group, include_extras=True).items()
            if name not in leaving
        ]
        first = [parameter for parameter in own if parameter.name in ("context", "file")]
        rest = [parameter for parameter in own if parameter not in first]
        names = {parameter.name for parameter in own}

        def run(**values: Any) -> None:
            command(**{name: value for name, value in values.items() if name in names})

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        every = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*first, *shared, *rest)]
        run.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in every}
        return run

    return give
