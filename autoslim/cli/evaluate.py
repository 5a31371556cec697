"""`autoslim evaluate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoslim.core.interval import wilson
from autoslim.core.job import DatasetSpec, ModelSpec
from autoslim.core.score import OBJECTIVES
from autoslim.core.unreadable import parse_allowed
from autoslim.errors import RequestError

if TYPE_CHECKING:
    from autoslim.data import PreparedDataset
    from autoslim.export.artifact import SlimConfig


def read_as(data: str, *, unreadable_share: str | None = None, **choices: Any) -> DatasetSpec:
    """The data set, with those of its choices that are given. Raises RequestError for an `unreadable_share` that cannot be."""
    if unreadable_share is not None:
        try:
            allowed = parse_allowed(unreadable_share)
        except RequestError as error:
            raise RequestError(f"--unreadable-share {error}") from None
        choices["unreadable_images" if isinstance(allowed, int) else "unreadable_share"] = allowed
    return DatasetSpec(source=data, **{name: value for name, value in choices.items() if value is not None})


def show_accuracy(
    folder: Path, spec: DatasetSpec, *, split: str, seed: int, objective: str, given: str | None, as_json: bool
) -> None:
    """`given` is a setting that only features have."""
    from autoslim.data import prepare_dataset
    from autoslim.data.scratch_folder import scratch_folder
    from autoslim.export.artifact import load_config
    from autoslim.training.holdout import evaluate_folder
    from autoslim.training.threads import idle_threads

    if objective not in OBJECTIVES:
        raise RequestError(f"--objective is {objective!r}; allowed: {', '.join(OBJECTIVES)}")
    if given is not None:
        raise RequestError(f"--dense or --probe is {given!r} with --objective labels; allowed with --objective features only")
    check_split(split)
    config = load_config(folder)
    if not config.classes:
        raise RequestError(
            f"{folder} holds a model of features, which has no classes; allowed: --objective features --dense MODEL"
        )
    with scratch_folder() as cache:
        inputs = [(config.shape.image_size, config.preprocessing.crop_pct)]
        dataset = prepare_dataset(spec, cache, seed=seed, inputs=inputs, tell=tell)
        refuse_other_classes(spec, dataset, config)
        with idle_threads(tell):
            result = evaluate_folder(folder, dataset.path, split)
    if as_json:
        sys.stdout.write(json.dumps({"accuracy": result.accuracy, "images": result.images, "split": split}) + "\n")
    else:
        interval = wilson(result.accuracy, result.images)
        between = f"{interval.low:.1%} to {interval.high:.1%} at 95 %"
        sys.stdout.write(f"top-1 {result.accuracy:.2%} ({between}) on {result.images:,} {split} images of {spec.source}\n")


def show_features(
    folder: Path,
    spec: DatasetSpec,
    *,
    split: str,
    seed: int,
    dense: str | None,
    weights: str,
    probe: DatasetSpec | None,
    as_json: bool,
) -> None:
    from autoslim.data import prepare_dataset
    from autoslim.data.scratch_folder import scratch_folder
    from autoslim.training.feature_evaluation import evaluate_features
    from autoslim.training.knn import NEIGHBOURS, TEMPERATURE
    from autoslim.training.threads import idle_threads

    if dense is None:
        raise RequestError("--objective features needs --dense, the dense model that was slimmed: a timm name, or its folder")
    check_split(split)
    with scratch_folder() as cache:
        images = prepare_dataset(spec.replace(labelled=False), cache, seed=seed, tell=tell)
        labelled = None if probe is None else prepare_dataset(probe, cache, seed=seed, tell=tell)
        with idle_threads(tell):
            result = evaluate_features(folder, ModelSpec(name=dense, weights=weights), images, split, probe=labelled)
    if as_json:
        knn = {"neighbours": NEIGHBOURS, "temperature": TEMPERATURE}
        sys.stdout.write(json.dumps({**result.to_dict(), "score": result.agreement.score, "split": split, "knn": knn}) + "\n")
        return
    found = result.agreement
    sys.stdout.write(
        f"agreement {found.score:.4f} (mean cosine with the dense model's features: pooled {found.pooled:.4f}, patches "
        f"{found.patches:.4f}) on {found.images:,} {split} images of {spec.source}\n"
    )
    if probe is not None and result.probe is not None:
        sys.stdout.write(f"{result.probe.describe()} of {probe.source}\n")


def refuse_other_classes(spec: DatasetSpec, dataset: PreparedDataset, config: SlimConfig) -> None:
    if dataset.classes != config.classes:
        raise RequestError(
            f"{spec.source} has the classes {', '.join(dataset.classes[:5])}...; the model was made for "
            f"{', '.join(config.classes[:5])}..."
        )


def tell(line: str) -> None:
    """Beside the result, which may be JSON."""
    sys.stderr.write(f"{line}\n")


def check_split(split: str) -> None:
    from autoslim.data.dataset import SPLITS

    if split not in SPLITS:
        raise RequestError(f"--split is {split!r}; allowed: {', '.join(SPLITS)}")
