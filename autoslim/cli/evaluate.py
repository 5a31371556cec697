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
    from autoslim.data.dataset import SPLITS
    from autoslim.export.artifact import load_config
    from autoslim.training.holdout import evaluate_folder

    if split not in SPLITS:
        raise RequestError(f"--split is {split!r}; allowed: {', '.join(SPLITS)}")
    config = load_config(folder)
    with tempfile.TemporaryDirectory(prefix="autoslim-") as cache:
        dataset = prepare_dataset(DatasetSpec(source=data), Path(cache), seed=seed)
        if dataset.classes != config.classes:
            raise RequestError(
                f"{data} has the classes {', '.join(dataset.classes[:5])}...; the model was made for {', '.join(config.classes[:5])}..."
            )
        result = evaluate_folder(folder, dataset.path, split)
    if as_json:
        sys.stdout.write(json.dumps({"accuracy": result.accuracy, "images": result.images, "split": split}) + "\n")
    else:
        sys.stdout.write(f"top-1 {result.accuracy:.2%} on {result.images} {split} images of {data}\n")
