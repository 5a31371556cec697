"""`autoslim`: data on stdout, progress and errors on stderr, exit codes that say what went wrong (`autoslim.errors`)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from autoslim.cli.flags import DataConfig, ImageColumn, Json, LabelColumn, ModelArgs, UnreadableShare
from autoslim.core.extras import PackageExtra, needs_extra
from autoslim.errors import AutoslimError

app = typer.Typer(
    help="Slim a vision transformer to a FLOPs budget.\n\nExample: autoslim init && autoslim plan job.yaml && autoslim search job.yaml",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)


def main() -> None:
    """Runs the command line. An error that the user can fix is printed as one line, without a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # These libraries log each retry; autoslim reports the final error itself.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    try:
        app(standalone_mode=True)
    except AutoslimError as error:
        sys.stderr.write(f"autoslim: {error}\n")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)


def flops(
    model: Annotated[str, typer.Argument(help="A timm model name, or a folder with a dense or a slimmed model.")],
    image_size: Annotated[
        str | None, typer.Option(help="Side of the square images, in pixels, or HEIGHTxWIDTH. Default: the model's own.")
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(
            min=0, help="Classes of the classifier; 0 counts the features alone. Default: the model's own, which may be 0."
        ),
    ] = None,
    model_args: ModelArgs = None,
    json: Json = False,
) -> None:
    """Count a model's multiply-accumulates per image, by three counters.

    Example: autoslim flops deit_small_patch16_224 --image-size 224
    """
    from autoslim.cli.flops import show_flops

    show_flops(model, image_size=image_size, classes=classes, model_args=model_args, as_json=json)


def models(
    filter: Annotated[
        str | None,
        typer.Argument(metavar="FILTER", help="A part of the names, or a pattern such as `vit_*_dinov2`. Default: all."),
    ] = None,
    json: Json = False,
) -> None:
    """List timm's vision transformers, with the methods that can slim each.

    Example: autoslim models siglip
    """
    from autoslim.cli.models import show_models

    show_models(filter, as_json=json)


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A slimmed model's folder.")],
    data: Annotated[str, typer.Option(help="As for a search: a file, a folder, or `digits`.")],
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    seed: Annotated[int, typer.Option(help="Seed of the splits, where the data set has no such split.")] = 0,
    objective: Annotated[
        str,
        typer.Option(help="labels: top-1 accuracy. features: agreement with the dense model's features; DATA needs no labels."),
    ] = "labels",
    dense: Annotated[
        str | None, typer.Option(help="With features: the dense model that was slimmed, as for --model.", metavar="MODEL")
    ] = None,
    weights: Annotated[str, typer.Option(help="With features: the dense model's weights, as in a search.")] = "pretrained",
    probe: Annotated[
        str | None, typer.Option(help="With features: a labelled data set, for k-NN top-1 of both models.", metavar="DATA")
    ] = None,
    data_config: DataConfig = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    unreadable_share: UnreadableShare = None,
    json: Json = False,
) -> None:
    """Measure a model's accuracy on a data set, or how close its features are to the dense model's.

    Example: autoslim evaluate runs/flowers/models/50% --data ./flowers
    """
    from autoslim.cli.evaluate import read_as, show_accuracy, show_features

    dataset = read_as(data, config=data_config, image_column=image_column, unreadable_share=unreadable_share)
    if objective == "features":
        # Labels of the images do not count here, so that the column is that of the probe.
        labelled = None if probe is None else read_as(probe, label_column=label_column, unreadable_share=unreadable_share)
        show_features(folder, dataset, split=split, seed=seed, dense=dense, weights=weights, probe=labelled, as_json=json)
        return
    dataset = dataset.replace(label_column=label_column)
    show_accuracy(folder, dataset, split=split, seed=seed, objective=objective, given=dense or probe, as_json=json)


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A slimmed model's folder, or a dense one in timm's hub format.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    data: Annotated[str, typer.Option(help="Parquet file, folder, or `digits`.")],
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    seed: Annotated[int, typer.Option(help="Seed of the splits, where the data set has no such split.")] = 0,
    data_config: DataConfig = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    json: Json = False,
) -> None:
    """Compare two models on the same images: accuracies with a paired interval, classes and images that differ.

    Example: autoslim compare runs/flowers/models/50% runs/flowers/models/2.3G --data ./flowers
    """
    from autoslim.cli.compare import show_comparison
    from autoslim.cli.evaluate import read_as

    dataset = read_as(data, config=data_config, image_column=image_column, label_column=label_column)
    show_comparison(first, second, dataset, split=split, seed=seed, as_json=json)


def methods(
    method: Annotated[str | None, typer.Argument(metavar="METHOD", help="Lists the knobs of this one.")] = None,
    json: Json = False,
) -> None:
    """List the slimming methods with their papers, or the knobs of one.

    Example: autoslim methods merge
    """
    from autoslim.cli.methods import show_methods

    show_methods(method, as_json=json)


def front(
    output: Annotated[Path, typer.Argument(metavar="DIR", help="A search's output folder.")],
    all: Annotated[bool, typer.Option("--all", help="Every trial, not those of the front alone.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Comma-separated values, with every column of trials.parquet.")] = False,
    json: Json = False,
) -> None:
    """Print the Pareto front of a search, also while it runs.

    Example: autoslim front runs/flowers
    """
    from autoslim.cli.front import show_front

    show_front(output, all_trials=all, as_json=json, as_csv=csv)


def pick(
    output: Annotated[Path, typer.Argument(metavar="DIR", help="A finished search's output folder.")],
    flops: Annotated[str | None, typer.Option(help="The most accurate trial within this budget, such as 1.9G or 40%.")] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="The cheapest trial at most this many points of top-1 below the dense model.")
    ] = None,
    json: Json = False,
) -> None:
    """Hand over another point of a finished search's front, whole, without training.

    Example: autoslim pick runs/flowers --max-drop 1.0
    """
    from autoslim.cli.pick import show_pick

    show_pick(output, flops=flops, max_drop=max_drop, as_json=json)


def visualize(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A slimmed model's folder.")],
    data: Annotated[str, typer.Option(help="As for a search: a file, a folder, or `digits`.")],
    images: Annotated[int, typer.Option(help="Number of images, spread over the classes.")] = 8,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    seed: Annotated[int, typer.Option(help="Seed of the splits, where the data set has no such split.")] = 0,
    output: Annotated[Path | None, typer.Option(help="A .png or .html file. Default: both, in DIR.")] = None,
    data_config: DataConfig = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    json: Json = False,
) -> None:
    """Draw which patches of real images are kept up to which block, and the widths of each block.

    Example: autoslim visualize runs/one --data ./flowers --images 8
    """
    from autoslim.cli.evaluate import read_as
    from autoslim.cli.visualize import visualize_folder

    dataset = read_as(data, config=data_config, image_column=image_column, label_column=label_column)
    visualize_folder(folder, dataset, images=images, split=split, seed=seed, output=output, as_json=json)


def doctor(
    output: Annotated[Path, typer.Option(help="Output folder of a search to check.")] = Path("runs"),
    address: Annotated[str | None, typer.Option(help="Address of a Ray cluster to check.")] = None,
    json: Json = False,
) -> None:
    """Check what a search needs on this machine.

    Example: autoslim doctor --output runs
    """
    from autoslim.cli.doctor import examine

    if not examine(output, address, as_json=json):
        raise typer.Exit(1)


def sync(
    output: Annotated[Path, typer.Argument(metavar="DIR", help="A search's output folder.")],
    json: Json = False,
) -> None:
    """Log to MLflow what could not be logged while the search ran.

    Example: autoslim sync runs/flowers
    """
    from autoslim.cli.search import sync_tracking

    sync_tracking(output, as_json=json)


def _register() -> None:
    from autoslim.cli import admin, config, job_file, jobs, keys, mcp, serve
    from autoslim.cli.search import plan, search
    from autoslim.cli.slim import slim
    from autoslim.cli.submit import submit

    client = (submit, jobs.jobs, jobs.show, jobs.attach, jobs.logs, jobs.cancel, jobs.pull)
    commands: tuple[tuple[str, PackageExtra | None, tuple[Callable[..., None], ...]], ...] = (
        ("On this machine", None, (job_file.init,)),
        ("On this machine", "search", (plan, search)),
        ("On this machine", None, (slim,)),
        ("On a service", "client", client),
        ("On a service", "mcp", (mcp.mcp,)),
        ("Operating a service", "service", (serve.serve, serve.supervise)),
        ("On this machine", "search", (front, pick)),
        ("Models", None, (models, methods, flops, evaluate, compare, visualize)),
        ("Help", None, (doctor,)),
        ("Help", "search", (sync,)),
    )
    for panel, extra, group in commands:
        for command in group:
            needed = command if extra is None else needs_extra(extra, f"autoslim {command.__name__}")(command)
            app.command(rich_help_panel=panel)(needed)
    app.add_typer(keys.app, name="keys", rich_help_panel="Operating a service")
    app.add_typer(admin.app, name="admin", rich_help_panel="Operating a service")
    app.add_typer(config.app, name="config", rich_help_panel="Help")


_register()
