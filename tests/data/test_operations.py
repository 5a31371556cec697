"""The operations of augmentations are Pillow's; images differ by its rounding alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from autoslim.data.crop_steps import CropSteps, StepKinds
from autoslim.data.operations import OPERATIONS, Step, apply_steps
from autoslim.data.table import Indices

SIZE = (48, 64)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
ALL = StepKinds(operations=2, jitters=True, erases=True)
FILL = tuple(round(255 * value) for value in MEAN)


def smooth() -> np.ndarray:
    """Without edges, of which two ways of interpolation make different things."""
    row, column = np.arange(SIZE[0])[:, None], np.arange(SIZE[1])[None]
    waves = [np.sin(row / 9 + channel) + np.cos(column / (7 + channel)) for channel in range(3)]
    return (60 * np.stack(waves, axis=-1) + 127).round().astype(np.uint8)


def batch(*images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()


def pixels(x: torch.Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 1).numpy()


CASES: list[tuple[str, float | None, Callable[[Image.Image], Image.Image], float]] = [
    ("brightness", 1.7, lambda image: ImageEnhance.Brightness(image).enhance(1.7), 1.01),
    ("contrast", 0.2, lambda image: ImageEnhance.Contrast(image).enhance(0.2), 2.01),
    ("contrast", 1.8, lambda image: ImageEnhance.Contrast(image).enhance(1.8), 2.01),
    ("saturation", 0.3, lambda image: ImageEnhance.Color(image).enhance(0.3), 2.01),
    ("sharpness", 1.9, lambda image: ImageEnhance.Sharpness(image).enhance(1.9), 2.01),
    ("invert", None, ImageOps.invert, 0.0),
    ("posterize", 64.0, lambda image: ImageOps.posterize(image, 2), 0.0),
    ("solarize", 110.0, lambda image: ImageOps.solarize(image, 110), 0.0),
    ("solarize_add", 90.0, lambda image: image.point([min(255, i + 90) if i < 128 else i for i in range(256)] * 3), 0.0),
    ("autocontrast", None, ImageOps.autocontrast, 1.01),
    ("equalize", None, ImageOps.equalize, 0.0),
]


@pytest.mark.parametrize(("name", "value", "theirs", "apart"), CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES])
def test_an_operation_is_pillows(name, value, theirs, apart):
    noise = np.random.default_rng(0).integers(20, 230, (*SIZE, 3), dtype=np.uint8)
    one_colour = np.full((*SIZE, 3), 77, np.uint8)
    images = [smooth(), noise, one_colour]
    values = () if value is None else (torch.full((3,), value),)
    for own, image in zip(pixels(OPERATIONS[name](batch(*images), *values)), images, strict=True):
        assert np.abs(own - np.asarray(theirs(Image.fromarray(image)))).max() <= apart


GEOMETRY = {
    3: lambda image, sign: image.rotate(sign * 9, Image.Resampling.BICUBIC, fillcolor=FILL),
    11: lambda image, sign: transformed(image, (1, sign * 0.09, 0, 0, 1, 0)),
    12: lambda image, sign: transformed(image, (1, 0, 0, sign * 0.09, 1, 0)),
    13: lambda image, sign: transformed(image, (1, 0, sign * 0.135 * SIZE[1], 0, 1, 0)),
    14: lambda image, sign: transformed(image, (1, 0, 0, 0, 1, sign * 0.135 * SIZE[0])),
}
"""By their place among the fifteen, at a level of 3 of 10."""


def transformed(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=FILL)


@pytest.mark.parametrize("number", GEOMETRY)
def test_images_are_turned_sheared_and_moved_as_timm_does_it(number):
    signs = np.array([1.0, -1.0])
    name, *values = CropSteps(SIZE, MEAN, STD, ALL)._operations(np.array([0.3, 0.3]), signs)[number]
    own = pixels(OPERATIONS[name](batch(smooth(), smooth()), *(torch.from_numpy(np.array(value)).float() for value in values)))
    for image, sign in zip(own, signs, strict=True):
        theirs = np.asarray(GEOMETRY[number](Image.fromarray(smooth()), sign)).astype(float)
        # At the border the fill and the image are mixed here; Pillow takes one of them.
        assert np.abs(image - theirs).mean() < 4
        assert np.abs(image - theirs)[12:-12, 16:-16].max() < 2.0
    assert np.abs(own[0] - own[1]).mean() > 5


def test_a_step_changes_its_rows_alone():
    images = batch(*np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3), dtype=np.uint8))
    changed = apply_steps(images.clone(), [Step("invert", torch.tensor([0, 2]))])
    assert torch.equal(changed, torch.stack([255 - images[0], images[1], 255 - images[2]]))


def test_an_erased_rectangle_shows_the_noise():
    noise = torch.full((3, *SIZE), 300.0)
    erased = OPERATIONS["erase"](batch(smooth()), torch.tensor([[5.0, 7.0, 10.0, 20.0]]), noise)[0]
    assert (erased[:, 5:15, 7:27] == 300).all()
    assert (erased == 300).sum() == 3 * 10 * 20


def test_steps_are_those_of_the_recipe_and_do_not_depend_on_the_share():
    def steps(rows: Indices) -> tuple[Step, ...]:
        return CropSteps(SIZE, MEAN, STD, ALL).draw(np.random.default_rng(0), 600, rows)

    every = steps(np.arange(600))
    *layers, one, two, three, erasing = every
    # Two operations an image, of which half are applied.
    assert 560 < sum(len(step.rows) for step in layers) < 640
    assert {step.operation for step in layers} == set(OPERATIONS) - {"erase"}
    assert [step.rows for step in (one, two, three)] == [None] * 3
    assert 120 < len(erasing.rows) < 180
    boxes = erasing.values[0]
    assert (boxes[:, 0] + boxes[:, 2] <= SIZE[0]).all()
    assert (boxes[:, 1] + boxes[:, 3] <= SIZE[1]).all()
    share = steps(np.arange(300, 600))[-1]
    whole = erasing.rows >= 300
    assert torch.equal(share.rows, erasing.rows[whole] - 300)
    assert torch.equal(share.values[0], boxes[whole])
    assert torch.equal(share.shared[0], erasing.shared[0])
