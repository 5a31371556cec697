"""The table of loaders: images a second by cores, times timm's, the gain from a second core, and whether the aims are met."""

from __future__ import annotations

from pathlib import Path

import torch
from loader_scaling import Ratio, Scaling
from loader_speed import Cell, Measurement, table
from measured_loaders import COMPARED, TIMM_AUGMENTATIONS, images_of, timm_loader, write_images

from autoslim.data.augment import SMALLEST


def cells(side: int, **speeds: tuple[float, float]) -> list[Cell]:
    """Of each loader on one and on two cores."""
    return [
        Cell(
            side=side,
            cores=cores,
            augmentation="light",
            loader=name,
            speed=speed,
            times=(times := speed / speeds["timm"][cores - 1]),
            low=times - 0.01,
            high=times + 0.01,
        )
        for cores in (1, 2)
        for name, own in speeds.items()
        for speed in own[cores - 1 : cores]
    ]


def scaling(loader: str, gain: Ratio, *, many: int = 2) -> Scaling:
    return Scaling(side=224, few=1, many=many, augmentation="light", loader=loader, gain=gain, ceiling=(1.9, 1.8, 2.0))


def test_a_line_has_the_speeds_by_cores_and_the_gain_that_was_measured_in_turns() -> None:
    speeds = cells(224, timm=(100.0, 190.0), cache=(300.0, 345.0), decoding=(96.0, 182.4))
    lines = table(speeds, [scaling("cache", (1.67, 1.6, 1.7)), scaling("decoding", (1.88, 1.85, 1.9))]).splitlines()
    assert lines[:5] == [
        "| pixels | augmentation | loader | 1 cores, images/s | 2 cores, images/s | scaling | ceiling |",
        "|---|---|---|---|---|---|---|",
        "| 224 | light | timm | 100 | 190 |  |  |",
        "| 224 | light | cache | 300, 3.00 (2.99-3.01) | 345, 1.82 (1.81-1.83) | 1.67 (1.60-1.70) | 1.90 (1.80-2.00) |",
        "| 224 | light | decoding | 96, 0.96 (0.95-0.97) | 182, 0.96 (0.95-0.97) | 1.88 (1.85-1.90) | 1.90 (1.80-2.00) |",
    ]
    ceiling = "two processes that share nothing are 1.90 (1.80-2.00) times as fast as one, the ceiling"
    assert lines[6:] == [
        "cache, 1 cores: 3.00 times timm's, the aim of 2.0 is met",
        "cache, 2 cores: 1.82 times timm's, the aim of 2.0 is missed",
        f"cache: 1.67 (1.60-1.70) times as fast on 2 cores as on 1, the aim of 1.8 is missed; {ceiling}",
        "decoding, 1 cores: 0.96 times timm's, the aim of 0.95 is met",
        "decoding, 2 cores: 0.96 times timm's, the aim of 0.95 is met",
        f"decoding: 1.88 (1.85-1.90) times as fast on 2 cores as on 1, the aim of 1.8 is met; {ceiling}",
    ]


def test_what_has_no_aim_is_not_judged() -> None:
    speeds = {"timm": (100.0, 190.0), "cache": (300.0, 500.0)}
    assert "aim" not in table(cells(32, **speeds), [])
    assert "times as fast" not in table(cells(224, **speeds), [scaling("cache", (3.0, 2.9, 3.1), many=4)])


def test_another_side_has_the_number_of_images_of_the_next() -> None:
    assert [images_of(side) for side in (32, 33, 224, 256, 384, 512)] == [8192, 512, 512, 256, 256, 256]


def test_timm_does_what_each_augmentation_does(tmp_path: Path) -> None:
    write_images(tmp_path, 32, 2)
    loaders = {name: timm_loader(tmp_path, 32, name, workers=0, device=torch.device("cpu")) for name in TIMM_AUGMENTATIONS}
    found = {name: [type(step).__name__ for step in loader.dataset.transform.transforms] for name, loader in loaders.items()}
    crop = ["RandomResizedCropAndInterpolation", "RandomHorizontalFlip"]
    assert found == {
        "light": [*crop, "MaybePILToTensor"],
        "strong": [*crop, "RandAugment", "ColorJitter", "MaybePILToTensor"],
        "deit": [*crop, "RandAugment", "MaybePILToTensor"],
        "imagenet": [*crop, "ColorJitter", "MaybePILToTensor"],
    }
    erased = {name: loader.random_erasing.probability for name, loader in loaders.items() if loader.random_erasing is not None}
    assert erased == {"strong": 0.25, "deit": 0.25}
    areas = {name: loader.dataset.transform.transforms[0].scale[0] for name, loader in loaders.items()}
    assert areas == SMALLEST


def test_results_of_other_settings_are_not_reused(tmp_path: Path) -> None:
    own = Measurement(output=tmp_path, side=32, images=64, seconds=1.0)
    # As before the settings were in the name.
    (tmp_path / "32-1-64-1.jsonl").write_text("{}\n")
    (tmp_path / f"32-1-64-1-{COMPARED}.jsonl").write_text(cells(32, timm=(100.0, 190.0))[0].to_json() + "\n")
    assert [cell.speed for cell in own.cells([0])] == [100.0]
