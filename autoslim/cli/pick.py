"""`autoslim pick`."""

from __future__ import annotations

import sys
from pathlib import Path

from autoslim.core.budget import format_flops
from workers.search.finalize import SelectedModel
from workers.search.pick import Wish, pick


def show_pick(folder: Path, *, flops: str | None, max_drop: float | None, as_json: bool) -> None:
    wish = Wish(flops=flops, max_drop=max_drop)
    sys.stderr.write(f"evaluating and exporting the model for {wish.label}: a minute or two\n")
    model = pick(folder, wish)
    sys.stdout.write((model.to_json(indent=1) if as_json else render(model)) + "\n")


def render(model: SelectedModel) -> str:
    return (
        f"trial {model.trial} ({model.method}): {format_flops(model.flops or 0)}, validation {model.accuracy or 0:.2%}, test "
        f"{model.test_accuracy:.2%} (the dense model {model.dense_test_accuracy:.2%})\n"
        f"{model.folder}"
    )
