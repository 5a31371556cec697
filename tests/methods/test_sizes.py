"""Patch sizes 8, 14 and 16 and images that are not square, with every method."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.marks import every_method
from helpers.tiny import config_of, images, logits, make_dense, share_of_dense, slim

from autoslim.cost import count_flops, predict
from autoslim.export.artifact import load, save

SIZES = {8: (32, 48), 14: (56, 28), 16: (48, 64)}


@pytest.mark.slow
@pytest.mark.parametrize("patch", SIZES)
@pytest.mark.parametrize("method", every_method())
def test_patch_sizes_and_images_that_are_not_square(method: str, patch: int, tmp_path: Path):
    height, width = SIZES[patch]
    dense = make_dense("deit", patch_size=patch, img_size=(height, width))
    assert dense.shape.grid == (height // patch, width // patch)
    finished = slim(method, dense, share=0.6, steps=1)
    predicted = predict(dense.shape, finished.plan).total
    assert count_flops(finished.model, (height, width)) == predicted <= share_of_dense(dense.shape, 0.6)
    save(tmp_path, finished.model, config_of(method, dense, finished))
    x = images(2, size=(height, width))
    torch.testing.assert_close(logits(load(tmp_path), x), logits(finished.model, x))
