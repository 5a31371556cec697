"""`autoslim evaluate`."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from autoslim.core.job import DatasetSpec
from autoslim.errors import RequestError


def show_accuracy(folder: Path, *, data: str, split: str, seed: int, as_json: bool) -> None:
    from autoslim.data import prepare_dataset
    from autoslim.export.artifact import load_config
    from autoslim.training.holdout import evaluate_folder

    if split not in ("train", "validation", "test"):
        raise RequestError(f"--split is {split!r}; allowed: train, validation, test")
    config = load_config(folder)
    with tempfile.TemporaryDirectory(prefix="autoslim-") as cache:
        dataset = prepare_dataset(DatasetSpec(source=data), Path(cache), seed=seed)
        if dataset.classes != config.classes:
            raise RequestError(
                f"{data} has the classes {', '.join(dataset.classes[:5])}...; the model was made for {', '.join(config.classes[:5])}..."
            )
        verdict = evaluate_folder(folder, dataset.path, split)
    if as_json:
        sys.stdout.write(json.dumps({"accuracy": verdict.accuracy, "images": verdict.images, "split": split}) + "\n")
    else:
        sys.stdout.write(f"top-1 {verdict.accuracy:.2%} on {verdict.images} {split} images of {data}\n")
