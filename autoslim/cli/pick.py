"""`autoslim pick`."""

from __future__ import annotations

import sys
from pathlib import Path

from autoslim.core.budget import format_flops
from autoslim.export.artifact import load_config
from workers.search.finalize import SelectedModel
from workers.search.pick import Wish, pick


def show_pick(folder: Path, *, flops: str | None, max_drop: float | None, min_accuracy: str | None, as_json: bool) -> None:
    wish = Wish.of(flops=flops, max_drop=max_drop, min_accuracy=min_accuracy)
    sys.stderr.write(f"evaluating and exporting the model for {wish.label}: a minute or two\n")
    model = pick(folder, wish)
    sys.stdout.write((model.to_json(indent=1) if as_json else render(model)) + "\n")


def render(model: SelectedModel) -> str:
    score = load_config(model.folder).score
    validation, test, dense = (
        score.text(value or 0.0, 2) for value in (model.accuracy, model.test_accuracy, model.dense_test_accuracy)
    )
    return (
        f"trial {model.trial} ({model.method}): {format_flops(model.flops or 0)}, validation {score.title} {validation}, test "
        f"{test} (the dense model {dense})\n"
        f"{model.folder}"
    )
