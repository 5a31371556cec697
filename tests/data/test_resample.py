"""Parts of images are resized as Pillow does it, on the device and in batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from autoslim.data.resample import bicubic_taps, resample

BOXES = [(0.0, 0.0, 40.0, 30.0), (3.25, 1.5, 31.75, 22.0), (10.0, 8.0, 16.0, 14.0), (0.0, 4.9, 40.0, 17.2)]


@pytest.mark.parametrize("size", [(24, 32), (30, 40), (7, 50)])
def test_a_part_is_what_pillow_makes_of_it(size):
    # Not so bright and dark that a sum overshoots, which Pillow clips after each direction.
    images = np.random.default_rng(0).integers(80, 170, (len(BOXES), 30, 40, 3), dtype=np.uint8)
    boxes = torch.tensor(BOXES)
    taps = bicubic_taps(boxes[:, 1::2], size[0], 30), bicubic_taps(boxes[:, 0::2], size[1], 40)
    crops = torch.empty(len(BOXES), 3, *size)
    ours = resample(torch.from_numpy(images), *taps, crops).permute(0, 2, 3, 1).numpy()
    for image, box, own in zip(images, BOXES, ours, strict=True):
        theirs = np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box))
        # Pillow rounds after each direction.
        assert np.abs(own - theirs).max() < 1.6
        assert abs((own - theirs).mean()) < 0.1


def test_the_whole_image_at_its_own_size_is_itself():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 9, 11, 3), dtype=np.uint8))
    boxes = torch.tensor([[0.0, 0.0, 11.0, 9.0]] * 2)
    taps = bicubic_taps(boxes[:, 1::2], 9, 9), bicubic_taps(boxes[:, 0::2], 11, 11)
    same = resample(images, *taps, torch.empty(2, 3, 9, 11))
    torch.testing.assert_close(same, images.permute(0, 3, 1, 2).float(), rtol=0, atol=1e-3)
