"""A slimmed model's features against the dense model's, as its user will load both."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from autoslim.core.job import ModelSpec
from autoslim.core.recipe import TrainingSettings
from autoslim.core.record import Record
from autoslim.core.score import ACCURACY
from autoslim.data import ImageSplit, Loader, PreparedDataset
from autoslim.errors import RequestError
from autoslim.export.artifact import SlimConfig, load, load_config
from autoslim.models import DenseModel, create_dense
from autoslim.training.agreement import Agreement, agreement
from autoslim.training.device import Precision, pick_device
from autoslim.training.knn import NEIGHBOURS, knn_top1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeResult(Record):
    """k-NN top-1 of the dense and the slimmed model's pooled features, on `images` test images of a labelled set."""

    dense: float
    slimmed: float
    images: int

    def describe(self) -> str:
        """One line for the terminal."""
        slimmed, dense = (ACCURACY.spoken(share, self.images) for share in (self.slimmed, self.dense))
        return f"k-NN top-1 ({NEIGHBOURS} neighbours) {slimmed}, the dense model's {dense}, on {self.images:,} test images"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureResult(Record):
    """What `evaluate_features` measures, in float32; `probe` where there is a labelled set."""

    agreement: Agreement
    probe: ProbeResult | None = None


def evaluate_features(
    folder: Path,
    dense: ModelSpec,
    dataset: PreparedDataset,
    split: str,
    *,
    probe: PreparedDataset | None = None,
    batch_size: int = 64,
) -> FeatureResult:
    """The slimmed model in `folder` on a split of a data set, whose labels are not read, and on the labelled set `probe`.

    Raises:
        RequestError: the dense model is not the one that was slimmed, in its sizes.
        UnsupportedModelError: no patch is left behind the slimmed model's last block.
    """
    config, other = load_config(folder), create_dense(dense)
    _check_same(config, other, dense.name)
    device = pick_device()
    slimmed, module = load(folder).to(device), other.module.to(device)

    def loader(images: ImageSplit) -> Loader:
        return _loader(images, config, batch_size)

    size, crop = config.shape.image_size, config.preprocessing.crop_pct
    images = getattr(dataset.splits(size, crop), split)
    found = agreement(slimmed, module, loader(images), device=device, precision=Precision.FLOAT32)
    if probe is None:
        return FeatureResult(agreement=found)
    splits = probe.splits(size, crop)
    dense_share, slimmed_share = (
        knn_top1(
            model,
            loader(splits.train),
            loader(splits.test),
            classes=len(probe.classes),
            device=device,
            precision=Precision.FLOAT32,
        )
        for model in (module, slimmed)
    )
    return FeatureResult(agreement=found, probe=ProbeResult(dense=dense_share, slimmed=slimmed_share, images=len(splits.test)))


def _loader(images: ImageSplit, config: SlimConfig, batch_size: int) -> Loader:
    return Loader(
        images,
        training=TrainingSettings(batch_size=batch_size, augmentation="none"),
        mean=config.preprocessing.mean,
        std=config.preprocessing.std,
        image_size=config.shape.image_size,
        seed=0,
        train=False,
    )


def _check_same(config: SlimConfig, dense: DenseModel, name: str) -> None:
    """Classes may differ: features have none."""
    for what in ("image_size", "grid", "prefix_tokens", "dim"):
        own, other = getattr(config.shape, what), getattr(dense.shape, what)
        if own != other:
            raise RequestError(
                f"--dense {name} has {what} {other}, the model that was slimmed {own}; allowed: the same dense model"
            )
