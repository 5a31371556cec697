"""`autoslim`: data on stdout, progress and errors on stderr, exit codes that say what went wrong (`autoslim.errors`)."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from autoslim.cli.flags import DataConfig, ImageColumn, Json, LabelColumn, ModelArgs, UnreadableShare
from autoslim.core.extras import PackageExtra, needs_extra
from autoslim.core.forms import FORM_NAMES, MAX_FORM_DROP
from autoslim.errors import AutoslimError, DatasetError
from autoslim.storage.model_folder import model_folder
from autoslim.storage.output_place import local_folder

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
        if isinstance(error, DatasetError) and error.flags:
            # Of a flag that is given twice, the last value holds.
            sys.stderr.write(f"next: {shlex.join(['autoslim', *sys.argv[1:], *error.flags])}\n")
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
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A slimmed model's folder, or its URI.")],
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
        with model_folder(folder) as local:
            show_features(local, dataset, split=split, seed=seed, dense=dense, weights=weights, probe=labelled, as_json=json)
        return
    dataset = dataset.replace(label_column=label_column)
    with model_folder(folder) as local:
        show_accuracy(local, dataset, split=split, seed=seed, objective=objective, given=dense or probe, as_json=json)


def compare(
    first: Annotated[
        str, typer.Argument(metavar="A", help="A slimmed model's folder, or a dense one in timm's hub format, or its URI.")
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    data: Annotated[str, typer.Option(help="Parquet file, folder, or `digits`.")],
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    seed: Annotated[int, typer.Option(help="Seed of the splits, where the data set has no such split.")] = 0,
    data_config: DataConfig = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    unreadable_share: UnreadableShare = None,
    speed: Annotated[bool, typer.Option("--speed/--no-speed", help="Time both models in turns, image by image.")] = True,
    json: Json = False,
) -> None:
    """Compare two models on the same images: accuracies with a paired interval, speed, classes and images that differ.

    Example: autoslim compare runs/flowers/models/50% runs/flowers/models/2.3G --data ./flowers
    """
    from autoslim.cli.compare import show_comparison
    from autoslim.cli.evaluate import read_as

    dataset = read_as(
        data, config=data_config, image_column=image_column, label_column=label_column, unreadable_share=unreadable_share
    )
    with model_folder(first) as one, model_folder(second) as other:
        show_comparison(one, other, dataset, split=split, seed=seed, speed=speed, as_json=json)


def export(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A slimmed model's folder, or its URI.")],
    format: Annotated[str, typer.Option(help=f"Forms, separated by commas: {', '.join(FORM_NAMES)}.")],
    data: Annotated[str, typer.Option(help="The data that the model was made with, as for a search.")],
    max_form_drop: Annotated[
        float, typer.Option(help="Points of top-1 that a form may lose against the weights without being marked.")
    ] = MAX_FORM_DROP,
    speed: Annotated[bool, typer.Option("--speed/--no-speed", help="Time the files beside the dense model.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the splits, where the data set has no such split, and of calibration.")] = 0,
    data_config: DataConfig = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    unreadable_share: UnreadableShare = None,
    json: Json = False,
) -> None:
    """Export a model to further forms, each judged on all test images by its own runtime.

    Example: autoslim export runs/flowers/models/50% --format onnx,onnx-int8,openvino --data ./flowers
    """
    from autoslim.cli.evaluate import read_as
    from autoslim.cli.export import show_export

    dataset = read_as(
        data, config=data_config, image_column=image_column, label_column=label_column, unreadable_share=unreadable_share
    )
    with model_folder(folder, writes=True) as local:
        show_export(local, dataset, formats=format, seed=seed, max_drop=max_form_drop, speed=speed, as_json=json)


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
    output: Annotated[str, typer.Argument(metavar="DIR", help="A search's output folder, or its URI.")],
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
    output: Annotated[str, typer.Argument(metavar="DIR", help="A finished search's output folder, or its URI.")],
    flops: Annotated[str | None, typer.Option(help="The most accurate trial within this budget, such as 1.9G or 40%.")] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="The cheapest trial at most this many points of top-1 below the dense model.")
    ] = None,
    min_accuracy: Annotated[str | None, typer.Option(help="The cheapest trial of at least this accuracy, such as 80%.")] = None,
    tune: Annotated[
        float | None,
        typer.Option(
            metavar="EPOCHS",
            help="Fine-tune the model for so many more epochs; it is handed over where it is then better on the validation images. "
            "One that was handed over before is replaced in that case alone.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Hand over another point of a finished search's front, whole: as it is, or fine-tuned for longer.

    Example: autoslim pick runs/flowers --max-drop 1.0 --tune 10
    """
    from autoslim.cli.pick import show_pick

    show_pick(output, flops=flops, max_drop=max_drop, min_accuracy=min_accuracy, tune=tune, as_json=json)


def report(
    output: Annotated[str, typer.Argument(metavar="DIR", help="A search's output folder, or its URI.")],
    json: Json = False,
) -> None:
    """Write report.html of a search anew, also of one that was stopped: all that there is to know of it, on one page.

    Example: autoslim report runs/flowers
    """
    from autoslim.cli.report import show_report

    raise typer.Exit(show_report(output, as_json=json))


def push(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A finished model's folder, or its URI.")],
    repo: Annotated[str, typer.Option(metavar="OWNER/NAME", help="The repository; it is made where it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private; a public one is refused.")] = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch; it is made where it does not exist. Default: the main one.")
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(help="The hub's name of the model's license, such as apache-2.0. Default: that of the pretrained weights."),
    ] = None,
    json: Json = False,
) -> None:
    """Push a finished model to the Hugging Face hub, with a card that it can read. The token is that of `hf auth login`, or HF_TOKEN.

    Example: autoslim push runs/flowers/models/50% --repo owner/flowers-50 --private
    """
    from autoslim.cli.push import push_folder

    with model_folder(folder) as local:
        push_folder(local, repo=repo, private=private, revision=revision, license=license, as_json=json)


def reproduce(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A slimmed model's folder, or its URI.")],
    output: Annotated[str, typer.Option(help="A new folder for the model that is made again.")],
    data: Annotated[str | None, typer.Option(help="Where its data set is now. Default: where it was.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="The dense model, adapted or as it was: a timm name or a folder in timm's hub format. Default: as it was given."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Make a model again from its config.json alone, and say whether it is the same to the bit, or by how much not (exit code 5).

    Example: autoslim reproduce runs/flowers/models/50% --output runs/again
    """
    from autoslim.cli.reproduce import show_reproduction

    with model_folder(folder) as local:
        show_reproduction(local, local_folder(output, "--output"), data=data, model=model, as_json=json)


def visualize(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A slimmed model's folder, or its URI.")],
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
    with model_folder(folder, writes=output is None) as local:
        visualize_folder(local, dataset, images=images, split=split, seed=seed, output=output, as_json=json)


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
    output: Annotated[str, typer.Argument(metavar="DIR", help="A search's output folder.")],
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
        ("On this machine", "search", (front, pick, report)),
        ("Models", None, (models, methods, flops, evaluate, compare, export, visualize, reproduce, push)),
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
