"""Two models on the same images: which answers differ, and what that says of their accuracies.

Shapes: N images, C classes.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from autoslim.core.accuracy_drop import AccuracyDrop
from autoslim.core.interval import Interval, paired_difference, wilson
from autoslim.core.record import OPTIONAL, Record
from autoslim.core.speed import RELIABLE_WITHIN
from autoslim.data import PreparedDataset
from autoslim.errors import RequestError
from autoslim.training.evaluate import answers
from autoslim.training.holdout import OpenedFolder, images_for, loader_for, open_folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparedModel(Record):
    """`flops` are multiply-accumulates an image, None for a model whose FLOPs autoslim has not counted."""

    folder: str
    accuracy: Interval
    params: int
    flops: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassDifference(Record):
    """Top-1 shares of both models on the images of one class, and how many images only one of them has right."""

    name: str
    images: int
    first: float
    second: float
    first_alone: int
    second_alone: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparedAnswers(Record):
    """`difference` is the first accuracy less the second. `changed` lists the images with different answers by their place in the split,
    each with its class and both answers; `classes` has every class in which the accuracies differ, the largest difference first."""

    images: int
    difference: Interval
    first_alone: int
    second_alone: int
    changed: tuple[tuple[int, str, str, str], ...]
    classes: tuple[ClassDifference, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparedSpeed(Record):
    """Medians of both models in milliseconds an image, on `hardware`; `times` is how many times as fast the first is as the second: the
    median over the rounds of the ratio of both times in one round, with the quartiles `low` and `high`."""

    hardware: str
    device: str
    threads: int
    first_ms: float
    second_ms: float
    times: float
    low: float
    high: float
    rounds: int

    @property
    def is_reliable(self) -> bool:
        """As of a `Timing`."""
        return self.high - self.low <= RELIABLE_WITHIN * self.times

    def describe(self) -> str:
        where = f"the CPU, {self.threads} thread{'' if self.threads == 1 else 's'}" if self.device == "cpu" else "the GPU"
        doubt = "" if self.is_reliable else "; unreliable: other work disturbed the rounds"
        return (
            f"A is {self.times:.2f} times as fast as B (the median of {self.rounds} pairs, quartiles {self.low:.2f} to {self.high:.2f}"
            f"{doubt}): one image, eager PyTorch on {where}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison(ComparedAnswers):
    """With what is known of the two models; `speed` where it was measured."""

    first: ComparedModel
    second: ComparedModel
    speed: ComparedSpeed | None = dataclasses.field(default=None, metadata=OPTIONAL)


def compare_folders(first: Path, second: Path, dataset: PreparedDataset, split: str, *, batch_size: int = 64) -> Comparison:
    """Both models on a split, in float32.

    Raises:
        RequestError: where a model was made for other classes than the data set's.
    """
    opened = [open_folder(folder) for folder in (first, second)]
    names = dataset.classes
    found = []
    for folder, model in zip((first, second), opened, strict=True):
        if model.classes == ():
            raise RequestError(f"{folder} holds a model of features, which has no classes; allowed: a model with a classifier")
        if model.classes is not None and model.classes != names:
            raise RequestError(
                f"{folder} was made for the classes {', '.join(model.classes[:5])}...; the data has {', '.join(names[:5])}..."
            )
        images = images_for(model, dataset.path, split)
        found.append(answers(model.module, loader_for(model, images, batch_size=batch_size)))
    (first_N, label_N), (second_N, _) = found
    compared = compare_answers(names, label_N, first_N, second_N)
    return Comparison(
        first=_described(first, opened[0], first_N == label_N),
        second=_described(second, opened[1], second_N == label_N),
        **{field.name: getattr(compared, field.name) for field in dataclasses.fields(compared)},
    )


def compare_answers(names: tuple[str, ...], label_N: Tensor, first_N: Tensor, second_N: Tensor) -> ComparedAnswers:
    """Of two models' answers to the same images, as places of classes; `names` has the names of these, as far as there are any."""
    right_N, other_N = first_N == label_N, second_N == label_N
    gained, lost = int((right_N & ~other_N).sum()), int((other_N & ~right_N).sum())
    return ComparedAnswers(
        images=len(label_N),
        difference=paired_difference(gained=gained, lost=lost, images=len(label_N)),
        first_alone=gained,
        second_alone=lost,
        changed=tuple(
            (place, *(_name(names, int(answer_N[place])) for answer_N in (label_N, first_N, second_N)))
            for place in torch.nonzero(first_N != second_N)[:, 0].tolist()
        ),
        classes=_by_class(names, label_N, right_N, other_N),
    )


def measure_drops(model: Path, dense: Path, dataset: PreparedDataset, *, allowed: float) -> tuple[AccuracyDrop, ...]:
    """What a slimmed model loses against the dense one, by folder, on the validation images, which it was selected on, and on the test
    images, which it was not. `allowed` is the share that may be lost."""
    found = {split: compare_folders(dense, model, dataset, split) for split in ("validation", "test")}
    return tuple(
        AccuracyDrop(split=split, images=compared.images, drop=compared.difference, allowed=allowed)
        for split, compared in found.items()
    )


def _described(folder: Path, model: OpenedFolder, right_N: Tensor) -> ComparedModel:
    return ComparedModel(
        folder=str(folder),
        accuracy=wilson(float(right_N.double().mean()), len(right_N)),
        params=sum(p.numel() for p in model.module.parameters()),
        flops=model.flops,
    )


def _by_class(names: tuple[str, ...], label_N: Tensor, right_N: Tensor, other_N: Tensor) -> tuple[ClassDifference, ...]:
    rows = []
    for number, name in enumerate(names):
        own_N = label_N == number
        images = int(own_N.sum())
        first, second = int(right_N[own_N].sum()), int(other_N[own_N].sum())
        if first != second:
            both = int((right_N & other_N & own_N).sum())
            rows.append(
                ClassDifference(
                    name=name,
                    images=images,
                    first=first / images,
                    second=second / images,
                    first_alone=first - both,
                    second_alone=second - both,
                )
            )
    return tuple(sorted(rows, key=lambda row: (-abs(row.first - row.second), row.name)))


def _name(names: tuple[str, ...], number: int) -> str:
    # A model of more outputs than the data has classes may answer with one that has no name here.
    return names[number] if number < len(names) else str(number)
