"""Evaluates models' folders as their user will load them: `python -m autoslim.training.holdout FOLDER... --data DATASET --split test`.

In a subprocess this proves that the folders load without the packages of the search. The last lines of stdout are JSON, one a folder. With
`--dense` the models are ones of features, compared with the dense model in that folder, and with `--probe` also on a labelled set.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from autoslim.core.captured_run import run_captured
from autoslim.core.job import ModelSpec
from autoslim.core.plan import Plan
from autoslim.core.recipe import TrainingSettings
from autoslim.core.record import OPTIONAL, Record
from autoslim.core.score import DENSE_AGREEMENT
from autoslim.core.shape import ViTShape
from autoslim.core.stall_watch import StallWatch, has_stalled
from autoslim.cost import predict
from autoslim.data import ImageSplit, Loader, open_dataset
from autoslim.errors import JobError, StalledError
from autoslim.export.artifact import SlimConfig, load, load_config
from autoslim.models import Preprocessing, create_dense
from autoslim.training.evaluate import answers
from autoslim.training.feature_evaluation import FeatureResult, evaluate_features

SEARCH_PACKAGES = ("ray", "optuna", "mlflow")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HoldoutResult(Record):
    """`accuracy` is the top-1 share in float32, or the score of `features`; `images` is the number of images that it was measured on;
    `search_packages` are those of `SEARCH_PACKAGES` that the process had imported, none where all is well. `answers` are the places of the
    classes that it answered with, in the order of the images; a model of features has none.
    """

    accuracy: float
    images: int
    search_packages: tuple[str, ...]
    features: FeatureResult | None = None
    answers: tuple[int, ...] = dataclasses.field(default=(), metadata=OPTIONAL)

    def of_dense(self) -> HoldoutResult:
        """What a model of features is compared with, on the same images: the dense model agrees with itself."""
        return self.replace(accuracy=DENSE_AGREEMENT, features=None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenedFolder:
    """A slimmed model, or a dense one in timm's format. `classes` and `flops` (multiply-accumulates an image) are None where the folder
    does not say them; a model of features has no classes."""

    module: nn.Module
    preprocessing: Preprocessing
    shape: ViTShape
    classes: tuple[str, ...] | None
    flops: int | None

    @property
    def image_size(self) -> tuple[int, int]:
        return self.shape.image_size


def open_folder(folder: Path) -> OpenedFolder:
    """Raises WeightsError or RequestError where it holds no model."""
    config_file = folder / "config.json"
    if config_file.is_file() and '"plan"' in config_file.read_text():
        config = load_config(folder)
        return OpenedFolder(
            module=load(folder),
            preprocessing=config.preprocessing,
            shape=config.shape,
            classes=config.classes,
            flops=config.flops.held,
        )
    dense = create_dense(ModelSpec(name=str(folder.absolute())))
    return OpenedFolder(
        module=dense.module,
        preprocessing=dense.preprocessing,
        shape=dense.shape,
        classes=dense.labels if dense.shape.classes else (),
        flops=predict(dense.shape, Plan.dense(dense.shape)).total,
    )


def images_for(model: OpenedFolder, dataset: Path, split: str) -> ImageSplit:
    """A split of the prepared data set in `dataset`, at the model's size."""
    images: ImageSplit = getattr(open_dataset(dataset).splits(model.image_size, model.preprocessing.crop_pct), split)
    return images


def loader_for(model: OpenedFolder | SlimConfig, images: ImageSplit, *, batch_size: int) -> Loader:
    """The images as the model takes them, in order."""
    size = model.shape.image_size if isinstance(model, SlimConfig) else model.image_size
    training = TrainingSettings(batch_size=batch_size, augmentation="none")
    mean, std = model.preprocessing.mean, model.preprocessing.std
    return Loader(images, training=training, mean=mean, std=std, image_size=size, seed=0, train=False)


def evaluate_folder(folder: Path, dataset: Path, split: str, *, batch_size: int = 64) -> HoldoutResult:
    """`folder` holds a slimmed model, or a dense one in timm's format."""
    model = open_folder(folder)
    images = images_for(model, dataset, split)
    answer_N, label_N = answers(model.module, loader_for(model, images, batch_size=batch_size))
    return HoldoutResult(
        accuracy=int((answer_N == label_N).sum()) / max(len(images), 1),
        images=len(images),
        search_packages=_search_packages(),
        answers=tuple(answer_N.tolist()),
    )


def evaluate_features_in(folder: Path, dataset: Path, split: str, *, dense: Path, probe: Path | None = None) -> HoldoutResult:
    """The slimmed model of features in `folder` beside the one in `dense` (timm's format); `probe` is a prepared labelled set."""
    labelled = None if probe is None else open_dataset(probe)
    found = evaluate_features(folder, ModelSpec(name=str(dense)), open_dataset(dataset), split, probe=labelled)
    agreed = found.agreement
    return HoldoutResult(accuracy=agreed.score, images=agreed.images, search_packages=_search_packages(), features=found)


def _search_packages() -> tuple[str, ...]:
    return tuple(package for package in SEARCH_PACKAGES if package in sys.modules)


def evaluate_in_subprocess(
    folder: Path,
    dataset: Path,
    split: str,
    *,
    dense: Path | None = None,
    probe: Path | None = None,
    stall_seconds: float = 0.0,
) -> HoldoutResult:
    """As `evaluate_folder`, or with `dense` as `evaluate_features_in`, in a new process that has imported nothing yet.

    Raises:
        JobError: when the folder does not load, or imports a package of the search.
        StalledError: when the process has evaluated nothing for `stall_seconds`; 0 is no limit.
    """
    options = [] if dense is None else ["--dense", str(dense)]
    options += [] if probe is None else ["--probe", str(probe)]
    (result,) = _evaluated([folder], dataset, split, options, stall_seconds=stall_seconds)
    return result


def evaluate_all_in_subprocess(folders: Sequence[Path], dataset: Path, split: str) -> list[HoldoutResult]:
    """As `evaluate_folder` one after the other, in one new process: it imports torch once.

    Raises:
        JobError: when a folder does not load, or imports a package of the search.
    """
    return _evaluated(folders, dataset, split, [])


def _evaluated(
    folders: Sequence[Path], dataset: Path, split: str, options: Sequence[str], *, stall_seconds: float = 0.0
) -> list[HoldoutResult]:
    named = [str(folder) for folder in folders]
    command = [sys.executable, "-m", "autoslim.training.holdout", *named, "--data", str(dataset), "--split", split, *options]
    command += ["--stall-seconds", repr(stall_seconds)]
    run = run_captured(command)
    if has_stalled(run):
        limit = f"{stall_seconds / 60:g}"
        raise StalledError(
            f"stalled: the evaluation of {' or '.join(named)} gave no sign of life for {limit} minutes (--stall-minutes {limit})",
            run.stderr,
        )
    if run.returncode != 0:
        raise JobError(f"{' or '.join(named)} could not be evaluated:\n{run.stderr[-4000:]}")
    results = [HoldoutResult.from_json(line) for line in run.stdout.strip().splitlines()[-len(folders) :]]
    for folder, result in zip(folders, results, strict=True):
        if result.search_packages:
            raise JobError(f"{folder} loads only with {', '.join(result.search_packages)} installed")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--data", type=Path, required=True, help="a prepared data set's folder")
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"))
    parser.add_argument("--dense", type=Path, help="the dense model's folder, for models of features")
    parser.add_argument("--probe", type=Path, help="with --dense, a prepared labelled data set's folder")
    parser.add_argument("--stall-seconds", type=float, default=0.0, help="without a sign of life, then it ends; 0 is no limit")
    arguments = parser.parse_args()
    results = []
    with StallWatch(arguments.stall_seconds).start().working():
        for folder in arguments.folders:
            where = folder, arguments.data, arguments.split
            if arguments.dense is None:
                results.append(evaluate_folder(*where))
            else:
                results.append(evaluate_features_in(*where, dense=arguments.dense, probe=arguments.probe))
    for result in results:
        sys.stdout.write(json.dumps(result.to_dict()) + "\n")


if __name__ == "__main__":
    main()
