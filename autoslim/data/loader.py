"""Batches for training and evaluation.

Every random number derives from (seed, epoch, step): an epoch is the same whenever and wherever it is run, and the caller's global
generators keep their states. B images of a batch, H and W pixels as stored, h and w pixels as the model takes them.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoslim.core.recipe import TrainingSettings
from autoslim.data.augment import Augmentation, Draws, check_augmentation
from autoslim.data.batch_share import BatchShare
from autoslim.data.dataset import ImageSplit
from autoslim.data.map_ahead import map_ahead
from autoslim.data.one_thread import compute_alone
from autoslim.data.table import Indices
from autoslim.data.token_targets import token_targets
from autoslim.errors import InfeasibleError, RequestError

Batch = tuple[Tensor, Tensor]
"""Normalised images float32 (B, 3, h, w) and labels int64 (B,), or soft labels of image and patches float32 (B, 1 + P, C)."""

_Step = tuple[Indices, int]
"""The images of a batch, and its number in the epoch, from 1."""

_MAX_READERS = 4
"""Threads that copy decoded images out of their file: more would wait for the memory."""

_MAX_MAKERS = 8
"""Threads that make the batches of a CPU, each of which is held as floats: training on them takes far longer than to make them."""

_CPU = torch.device("cpu")


class _Prepared(NamedTuple):
    """A batch before its way to the device: bytes (B, H, W, 3), which are a quarter of what the model takes."""

    images_BHW3: Tensor
    labels: Tensor
    draws: Draws

    def pinned(self) -> _Prepared:
        """In memory that a GPU reads while the CPU goes on."""
        return _Prepared(self.images_BHW3.pin_memory(), self.labels.pin_memory(), self.draws.moved(Tensor.pin_memory))

    def on(self, device: torch.device) -> _Prepared:
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return _Prepared(move(self.images_BHW3), move(self.labels), self.draws.moved(move))


class Loader:
    """Batches of a split.

    With `train` the images are shuffled and augmented, and a last partial batch is dropped unless it is the only one; without, all images
    come in order, centre-cropped.

    Batches are read, or decoded, ahead in the background, at most one for each of the threads that PyTorch may use in this process; what
    is decoded is decoded by as many processes. A GPU crops, augments and normalises them itself; for a CPU that is done ahead, too, each
    batch in a thread of its own, of at most eight.

    Where the training `repeats` images (Hoffer et al., 2020, arXiv 1901.09335; Berman et al., 2019, arXiv 1902.05509), each of them is in
    a batch as often, one after the other and each time augmented otherwise; of a group that a batch ends in, the rest is in the next. An
    epoch has as many batches as without: the first ones of the shuffled images, so that it takes as many epochs to see each once on
    average.

    With a `token_grid`, rows and columns of the model's patches, batches have the labels of the patches (`token_targets`), which the split
    has to have.

    With a `share` each batch has the images of that share alone, augmented as in the whole batch.

    Raises:
        InfeasibleError: a batch is too small for every share to have an image.
    """

    def __init__(
        self,
        split: ImageSplit,
        *,
        training: TrainingSettings,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        image_size: tuple[int, int],
        seed: int,
        train: bool,
        share: BatchShare | None = None,
        token_grid: tuple[int, int] | None = None,
    ) -> None:
        check_augmentation(training.augmentation)
        _check(split, training, mean, std, image_size)
        self._split, self._seed, self._train = split, seed, train
        self._batch_size, self._share, self._token_grid = training.batch_size, share, token_grid
        self._repeats = training.repeats if train else 1
        self._augmentation = Augmentation(
            training.augmentation if train else "none",
            stored=split.size,
            size=image_size,
            flip=training.flip,
            mean=mean,
            std=std,
        )
        if share is not None and self.batch_images < share.least_batch:
            raise InfeasibleError(
                f"a batch of {self.batch_images} images is for {share.ranks} GPUs; allowed: at least {share.least_batch} images "
                f"(--batch-size), or fewer GPUs a trial (--resources)"
            )

    @property
    def batch_images(self) -> int:
        """Images of a whole batch in training, of which a share has a part."""
        return min(self._batch_size, len(self._split))

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        if self._train:
            return max(1, len(self._split) // self._batch_size)
        return math.ceil(len(self._split) / self._batch_size)

    def epoch(self, epoch: int, device: torch.device = _CPU, *, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch `epoch`, which is 0 or higher and makes no difference without `train`, on `device`; without its first
        `start` ones, of which nothing is prepared."""
        order = self._order(epoch)
        # Steps are seeded from 1: NumPy's seeds [s, e] and [s, e, 0] give the same draws, and [s, e] shuffles the epoch.
        steps = ((order[step * self._batch_size : (step + 1) * self._batch_size], step + 1) for step in range(start, len(self)))
        threads, on_cpu, decodes = torch.get_num_threads(), device.type == "cpu", self._split.encoded is not None
        makers = min(_MAX_MAKERS, threads)
        prepare = functools.partial(self._prepare, epoch, pinned=device.type == "cuda")
        # A caller may stop within an epoch; the batches that it does not want are not prepared.
        if on_cpu and not decodes:
            make = functools.partial(self._make_alone, prepare)
            with contextlib.closing(map_ahead(make, steps, threads=makers, ahead=makers)) as made:
                yield from made
            return
        threads = threads if decodes else min(_MAX_READERS, threads)
        with contextlib.closing(map_ahead(prepare, steps, threads=threads, ahead=threads)) as batches:
            if on_cpu:
                # More are decoded at a time than are held as floats.
                with contextlib.closing(map_ahead(self._finish_alone, batches, threads=makers, ahead=makers)) as made:
                    yield from made
                return
            for batch in batches:
                yield self._finish(batch.on(device))

    def _order(self, epoch: int) -> Indices:
        if not self._train:
            return np.arange(len(self._split))
        shuffled = np.random.default_rng([self._seed, epoch]).permutation(len(self._split))
        return np.repeat(shuffled, self._repeats)[: len(self._split)]

    def _finish(self, prepared: _Prepared) -> Batch:
        return self._augmentation(prepared.images_BHW3, prepared.draws), prepared.labels

    def _make_alone(self, prepare: Callable[[_Step], _Prepared], step: _Step) -> Batch:
        """In a thread beside others that do the same: each has one CPU."""
        compute_alone()
        return self._finish(prepare(step))

    def _finish_alone(self, prepared: _Prepared) -> Batch:
        """As `_make_alone`, of a batch that was decoded by a process."""
        compute_alone()
        return self._finish(prepared)

    def _prepare(self, epoch: int, step: _Step, *, pinned: bool) -> _Prepared:
        indices, number = step
        rows = np.arange(len(indices)) if self._share is None else self._share.rows(len(indices))
        draws = self._augmentation.draw(np.random.default_rng([self._seed, epoch, number]), len(indices), rows)
        own = indices[rows]
        prepared = _Prepared(torch.from_numpy(self._read(own)), torch.from_numpy(self._targets(own, draws)), draws)
        return prepared.pinned() if pinned else prepared

    def _read(self, indices: Indices) -> NDArray[np.uint8]:
        if self._repeats == 1:
            return self._split.batch(indices)
        # Read, or decoded, once, however often it is in the batch.
        once, copies = np.unique(indices, return_inverse=True)
        return self._split.batch(once)[copies]

    def _targets(self, indices: Indices, draws: Draws) -> NDArray[np.int64] | NDArray[np.float32]:
        labels_B = self._split.labels[indices]
        if self._token_grid is None:
            return labels_B
        patches = self._split.token_labels
        assert patches is not None, "labels of patches of a split that has none"
        return token_targets(
            patches.maps(indices),
            labels_B,
            draws,
            stored=self._split.size,
            grid=self._token_grid,
            class_count=patches.class_count,
        )


def _check(
    split: ImageSplit, training: TrainingSettings, mean: tuple[float, ...], std: tuple[float, ...], size: tuple[int, int]
) -> None:
    if training.batch_size < 1:
        raise RequestError(f"batch_size is {training.batch_size}; allowed: at least 1")
    if training.repeats < 1:
        raise RequestError(f"repeats is {training.repeats}; allowed: at least 1")
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise RequestError(f"mean is {mean} and std {std}; allowed: three numbers each, std above 0")
    if size[0] > split.size[0] or size[1] > split.size[1]:
        raise RequestError(f"image_size is {size}; allowed: at most {split.size}, the size the images are stored at")
