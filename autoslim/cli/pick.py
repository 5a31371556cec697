"""`autoslim pick`."""

from __future__ import annotations

import sys

import typer

from autoslim.core.budget import format_flops
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
    first = "evaluating and exporting" if tune is None else f"fine-tuning for {tune:g} epochs, then evaluating and exporting"
    _tell(f"{first} the model for {wish.label}: {'a minute or two' if tune is None else 'as long as these epochs take'}")
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
    tuned = "" if model.tuned is None else f"{model.tuned.describe(score)}\n"
    return (
        f"trial {model.trial} ({model.method}): {format_flops(model.flops or 0)}; {score.title}{score.interval_unit(images.get('test'))}: "
        f"validation {validation}, test {test}, the dense model {dense}\n{tuned}"
        f"{model.folder}"
    )
