"""`autoslim pick`."""

from __future__ import annotations

import sys

import typer

from autoslim.cli.table import paragraph
from autoslim.core.budget import format_flops
from autoslim.core.files import short_path
from autoslim.export.artifact import load_config
from autoslim.storage.output_place import OutputPlace
from workers.search.finalize import SelectedModel
from workers.search.pick import Wish, pick
from workers.search.signals import GracefulShutdown


def show_pick(
    folder: str, *, flops: str | None, max_drop: float | None, min_accuracy: str | None, tune: float | None, as_json: bool
) -> None:
    place = OutputPlace.parse(folder)
    wish = Wish.of(flops=flops, max_drop=max_drop, min_accuracy=min_accuracy, tune=tune)
    try:
        with GracefulShutdown():
            model = pick(place.folder, wish, uri=place.uri, tell=_tell)
    except KeyboardInterrupt:
        _tell("stopped; finished epochs are kept. Repeat the command to continue")
        raise typer.Exit(130) from None
    sys.stdout.write((model.to_json(indent=1) if as_json else render(model)) + "\n")


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def render(model: SelectedModel) -> str:
    config = load_config(model.folder)
    score, images = config.score, config.images
    validation, test, dense = (
        score.with_interval(value or 0.0, images.get(split))
        for value, split in ((model.accuracy, "validation"), (model.test_accuracy, "test"), (model.dense_test_accuracy, "test"))
    )
    text = (
        f"trial {model.trial} ({model.method}): {format_flops(model.flops or 0)}; {score.title}{score.interval_unit(images.get('test'))}: "
        f"validation {validation}, test {test}, the dense model {dense}"
    )
    tuned = [] if model.tuned is None else [paragraph(model.tuned.describe(score, images.get("validation")))]
    return "\n".join([paragraph(text), *tuned, short_path(model.folder)])
