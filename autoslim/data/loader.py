"""Batches for training and evaluation.

Every random number derives from (seed, epoch, step): an epoch is the same whenever and wherever it is run, and the caller's global
generators keep their states. B images of a batch, h and w pixels as the model takes them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from autoslim.core.recipe import TrainingSettings
from autoslim.data.augment import Pixels, Strong, centre_crop, check_augmentation, light, seeded_globals
from autoslim.data.batch_share import BatchShare
from autoslim.data.dataset import ImageSplit
from autoslim.data.table import Indices
from autoslim.errors import InfeasibleError, RequestError

Batch = tuple[torch.Tensor, torch.Tensor]
"""Normalised images float32 (B, 3, h, w) and labels int64 (B,)."""

_MAX_THREADS = 4
"""Trials share a machine, so that each takes no more than these."""


class Loader:
    """Batches of a split.

    With `train` the images are shuffled and augmented, and a last partial batch is dropped unless it is the only one; without, all images
    come in order, centre-cropped.

    Batches are prepared ahead in background threads: as many as PyTorch may use in this process, at most four. Only `strong` is prepared in
    the caller's thread, because timm draws from the process's global generators.

    With a `share` each batch has the images of that share alone, augmented as in the whole batch. `strong` prepares the whole batch for it,
    since timm's draws depend on the images before.

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
    ) -> None:
        check_augmentation(training.augmentation)
        _check(split, training, mean, std, image_size)
        self._split, self._size, self._seed, self._train = split, image_size, seed, train
        self._batch_size, self._flip, self._share = training.batch_size, training.flip, share
        self._augmentation = training.augmentation if train else "none"
        # (byte / 255 - mean) / std as one product and one sum.
        self._scale_3 = (1 / (255 * np.array(std))).astype(np.float32)
        self._shift_3 = (-np.array(mean) / np.array(std)).astype(np.float32)
        self._strong = Strong(image_size, training.flip, mean) if self._augmentation == "strong" else None
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

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch `epoch`, which is 0 or higher and makes no difference without `train`; without its first `start` ones, of
        which nothing is prepared."""
        order = self._order(epoch)
        # Steps are seeded from 1: NumPy's seeds [s, e] and [s, e, 0] give the same draws, and [s, e] shuffles the epoch.
        steps = [(step + 1, order[step * self._batch_size : (step + 1) * self._batch_size]) for step in range(start, len(self))]
        if self._strong is not None:
            for number, indices in steps:
                yield self._strong_batch(indices, [self._seed, epoch, number])
            return
        yield from self._prefetch(epoch, steps)

    def _order(self, epoch: int) -> Indices:
        if not self._train:
            return np.arange(len(self._split))
        return np.random.default_rng([self._seed, epoch]).permutation(len(self._split))

    def _prefetch(self, epoch: int, steps: list[tuple[int, Indices]]) -> Iterator[Batch]:
        threads = min(_MAX_THREADS, torch.get_num_threads())
        pending: deque[Future[tuple[NDArray[np.float32], NDArray[np.int64]]]] = deque()
        pool = ThreadPoolExecutor(threads, thread_name_prefix="autoslim-loader")
        try:
            for number, indices in steps:
                # One batch more than there are threads: none of them is idle while the caller trains on a batch.
                pending.append(pool.submit(self._batch, indices, [self._seed, epoch, number]))
                # At most one batch a thread is ahead, so that memory does not grow where training is slower than loading.
                if len(pending) > threads:
                    yield _tensors(pending.popleft().result())
            while pending:
                yield _tensors(pending.popleft().result())
        finally:
            # A caller may stop within an epoch; the batches that it does not want are not prepared.
            pool.shutdown(cancel_futures=True)

    def _batch(self, indices: Indices, seeds: list[int]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        generator = np.random.default_rng(seeds)
        if self._share is not None:
            generator, indices = self._share.draws(generator, len(indices)), indices[self._share.rows(len(indices))]
        images_BHW3 = self._split.images(indices)
        if self._augmentation == "light":
            images_Bhw3 = light(images_BHW3, self._size, self._flip, generator)
        else:
            images_Bhw3 = centre_crop(images_BHW3, self._size)
        return normalise(images_Bhw3, self._scale_3, self._shift_3), self._split.labels[indices]

    def _strong_batch(self, indices: Indices, seeds: list[int]) -> Batch:
        assert self._strong is not None
        images_BHW3 = self._split.images(indices)
        with seeded_globals(int(np.random.SeedSequence(seeds).generate_state(1)[0])):
            images_Bhw3 = self._strong(images_BHW3, np.random.default_rng(seeds))
            x_B3hw = self._strong.erase(torch.from_numpy(normalise(images_Bhw3, self._scale_3, self._shift_3)))
        labels_B = torch.from_numpy(self._split.labels[indices])
        if self._share is None:
            return x_B3hw, labels_B
        rows = torch.from_numpy(self._share.rows(len(indices)))
        return x_B3hw[rows], labels_B[rows]


def normalise(images_Bhw3: Pixels, scale_3: NDArray[np.float32], shift_3: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pixels times `scale` plus `shift`, (B, 3, h, w). In NumPy, since PyTorch would start more threads in each background thread."""
    batch, height, width, _ = images_Bhw3.shape
    # Written channel by channel into its final layout: nothing is transposed afterwards.
    x_B3hw = np.empty((batch, 3, height, width), np.float32)
    for channel in range(3):
        x_Bhw = x_B3hw[:, channel]
        np.multiply(images_Bhw3[..., channel], scale_3[channel], out=x_Bhw, dtype=np.float32)
        x_Bhw += shift_3[channel]
    return x_B3hw


def _tensors(batch: tuple[NDArray[np.float32], NDArray[np.int64]]) -> Batch:
    return torch.from_numpy(batch[0]), torch.from_numpy(batch[1])


def _check(
    split: ImageSplit, training: TrainingSettings, mean: tuple[float, ...], std: tuple[float, ...], size: tuple[int, int]
) -> None:
    if training.batch_size < 1:
        raise RequestError(f"batch_size is {training.batch_size}; allowed: at least 1")
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise RequestError(f"mean is {mean} and std {std}; allowed: three numbers each, std above 0")
    if size[0] > split.size[0] or size[1] > split.size[1]:
        raise RequestError(f"image_size is {size}; allowed: at most {split.size}, the size the images are stored at")
