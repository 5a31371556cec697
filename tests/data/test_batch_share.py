"""The shares of a batch are parts of it: no image twice, none missing, each augmented as in the whole batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autoslim.core.recipe import TrainingSettings
from autoslim.data import AUGMENTATIONS, ImageSplit, Loader
from autoslim.data.batch_share import BatchShare
from autoslim.errors import InfeasibleError


def shares(ranks: int) -> list[BatchShare]:
    return [BatchShare(rank=rank, ranks=ranks) for rank in range(ranks)]


@pytest.mark.parametrize(("batch", "ranks"), [(8, 2), (9, 2), (3, 2), (32, 3), (15, 8), (64, 8), (7, 1)])
def test_shares_are_a_partition_into_pairs_of_opposite_rows(batch: int, ranks: int):
    rows = [share.rows(batch) for share in shares(ranks)]
    assert sorted(np.concatenate(rows)) == list(range(batch))
    assert all(len(own) and list(own) == list(batch - 1 - own[::-1]) for own in rows)


@pytest.mark.parametrize("side", [16, 80])
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_a_share_has_its_rows_of_the_whole_batch(augmentation: str, side: int):
    pixels = np.random.default_rng(0).integers(0, 256, (20, side, side, 3), dtype=np.uint8)
    split = ImageSplit(np.arange(20), (side, side), lambda indices: pixels[indices])

    def batches(share: BatchShare | None) -> list[tuple[torch.Tensor, torch.Tensor]]:
        training = TrainingSettings(batch_size=7, augmentation=augmentation)
        size, norm = (side, side), (0.5, 0.5, 0.5)
        loader = Loader(split, training=training, mean=norm, std=norm, image_size=size, seed=3, train=True, share=share)
        assert (len(loader), loader.batch_images) == (2, 7)
        return list(loader.epoch(1))

    for share in shares(2):
        rows = torch.from_numpy(share.rows(7))
        for (images, labels), (own_images, own_labels) in zip(batches(None), batches(share), strict=True):
            assert torch.equal(own_images, images[rows])
            assert torch.equal(own_labels, labels[rows])


def test_a_batch_too_small_for_its_gpus_is_refused():
    split = ImageSplit(np.arange(20), (8, 8), lambda indices: np.zeros((len(indices), 8, 8, 3), np.uint8))
    norm = (0.5, 0.5, 0.5)
    with pytest.raises(InfeasibleError, match="4 images is for 4 GPUs; allowed: at least 7"):
        Loader(
            split,
            training=TrainingSettings(batch_size=4),
            mean=norm,
            std=norm,
            image_size=(8, 8),
            seed=0,
            train=True,
            share=BatchShare(rank=1, ranks=4),
        )
