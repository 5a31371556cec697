"""Labels of patches follow the part of the image that a batch shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import roi_align

from autoslim.core.recipe import TrainingSettings
from autoslim.data import ImageSplit, Loader
from autoslim.data.augment import Draws
from autoslim.data.token_labels import TokenLabels, TokenMaps
from autoslim.data.token_targets import token_targets


def maps_of(scores: np.ndarray, classes: np.ndarray, size: tuple[int, int]) -> TokenMaps:
    return TokenMaps(scores.astype(np.float16), classes.astype(np.uint8), np.tile(np.array(size, np.int32), (len(scores), 1)))


def random_maps(count: int, *, classes: int, size: tuple[int, int]) -> TokenMaps:
    source = np.random.default_rng(2)
    # Different classes at a place, as the highest scores have.
    numbers = source.permuted(np.tile(np.arange(classes), (count, 5, 7, 1)), axis=-1)[..., :3]
    return maps_of(source.normal(size=(count, 3, 5, 7)) * 4, np.moveaxis(numbers, -1, 1), size)


def draws_of(boxes_B4: np.ndarray, *, mirrored: bool = False) -> Draws:
    return Draws(torch.from_numpy(boxes_B4), torch.full((len(boxes_B4),), mirrored))


def test_patches_have_the_labels_that_region_of_interest_alignment_gives():
    boxes_B4 = np.array([[0, 0, 70, 50], [7.5, 5, 40, 45], [30, 20, 69, 26], [12, 3, 50, 48.5]])
    maps = random_maps(4, classes=6, size=(50, 70))
    found = token_targets(maps, np.arange(4), draws_of(boxes_B4), stored=(50, 70), grid=(3, 2), class_count=6)
    dense = torch.zeros(4, 6, 5, 7).scatter_(1, torch.from_numpy(maps.classes).long(), torch.from_numpy(maps.scores).float())
    # A place of the map is ten pixels. torchvision's answer, which takes borders into account as we do.
    boxes = torch.from_numpy(np.column_stack([np.arange(4), boxes_B4 / 10])).float()
    wanted = roi_align(dense, boxes, (3, 2), sampling_ratio=2, aligned=True).flatten(2).mT.softmax(dim=2)
    torch.testing.assert_close(torch.from_numpy(found[:, 1:]), wanted, rtol=1e-4, atol=1e-5)
    assert found[:, 0].tolist() == np.eye(6)[:4].tolist()


def test_a_mirrored_image_has_mirrored_labels():
    boxes_B4 = np.array([[3.0, 5.0, 60.0, 44.0]] * 2)
    maps = random_maps(2, classes=6, size=(50, 70))
    plain, mirrored = (
        token_targets(
            maps, np.zeros(2, np.int64), draws_of(boxes_B4, mirrored=is_mirrored), stored=(50, 70), grid=(4, 3), class_count=6
        )
        for is_mirrored in (False, True)
    )
    assert np.allclose(mirrored[:, 1:].reshape(2, 4, 3, 6)[:, :, ::-1], plain[:, 1:].reshape(2, 4, 3, 6), rtol=1e-6)
    assert np.array_equal(mirrored[:, 0], plain[:, 0])


@pytest.mark.parametrize("tall", [False, True])
def test_of_an_image_that_is_no_square_the_middle_is_stored(tall: bool):
    """Its outer quarters have other classes, and are cut away."""
    strips = np.array([0, 1, 1, 2]).repeat(4)
    classes = np.broadcast_to(strips[:, None] if tall else strips, (1, 1, 16, 16))
    maps = maps_of(np.full((1, 1, 16, 16), 20.0), classes, (40, 20) if tall else (20, 40))
    boxes_B4 = np.array([[0.0, 0.0, 10.0, 10.0]])
    found = token_targets(maps, np.zeros(1, np.int64), draws_of(boxes_B4), stored=(10, 10), grid=(4, 4), class_count=3)
    assert (found[0, 1:].argmax(axis=1) == 1).all()
    assert found[0, 1:, 1].min() > 0.99


@pytest.mark.parametrize("augmentation", ["none", "light"])
@pytest.mark.parametrize(("side", "cells"), [(32, 4), (96, 3)], ids=["shifted", "resized"])
def test_each_patch_of_a_batch_has_the_class_that_it_shows(augmentation: str, side: int, cells: int):
    """Images of coloured squares, whose colours are their classes."""
    source = np.random.default_rng(0)
    colours = np.array([[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)], np.uint8)
    classes = source.integers(0, 8, (20, cells, cells))
    stored = side + side // 4
    nearest = (np.arange(stored) * cells) // stored
    pixels = colours[classes[:, nearest][:, :, nearest]]
    maps = maps_of(np.full((20, 1, cells, cells), 8.0), classes[:, None], (stored, stored))
    split = ImageSplit(np.zeros(20, np.int64), (stored, stored), lambda indices: pixels[indices], TokenLabels(maps, 8))
    training = TrainingSettings(batch_size=20, augmentation=augmentation, flip=True)
    loader = Loader(
        split, training=training, mean=(0.5,) * 3, std=(0.5,) * 3, image_size=(side, side), seed=1, train=True, token_grid=(4, 4)
    )
    ((images, targets),) = loader.epoch(0)
    assert targets.shape == (20, 17, 8)
    patch = side // 4
    middle = images[:, :, patch // 2 :: patch, patch // 2 :: patch].permute(0, 2, 3, 1).flatten(1, 2)
    shown = (middle[:, :, None] - (torch.from_numpy(colours).float() / 127.5 - 1)).norm(dim=3).argmin(dim=2)
    # A patch that is nearly all of one class, and not at a border between two.
    sure, named = targets[:, 1:].max(dim=2)
    clear = sure > 0.9
    assert clear.float().mean() > 0.1
    assert (shown == named)[clear].float().mean() > 0.97


def test_labels_are_drawn_from_the_same_numbers_with_and_without_those_of_patches():
    """Training without them is what it was before there were any."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 20, 3), dtype=np.uint8)
    maps = random_maps(12, classes=6, size=(20, 20))
    split = ImageSplit(np.arange(12) % 6, (20, 20), lambda indices: pixels[indices], TokenLabels(maps, 6))

    def first_of(token_grid: tuple[int, int] | None) -> tuple[torch.Tensor, torch.Tensor]:
        settings = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "image_size": (16, 16), "seed": 3, "train": True}
        loader = Loader(split, training=TrainingSettings(batch_size=12), token_grid=token_grid, **settings)  # type: ignore[arg-type]
        return next(iter(loader.epoch(0)))

    plain, with_patches = first_of(None), first_of((2, 2))
    assert torch.equal(plain[0], with_patches[0])
    assert torch.equal(plain[1], with_patches[1][:, 0].argmax(dim=1))
