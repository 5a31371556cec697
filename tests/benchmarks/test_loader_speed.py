"""The table of loaders: images a second by cores, times timm's, and whether the aims are met."""

from __future__ import annotations

from loader_speed import Cell, images_of, table


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


def test_a_line_has_the_speeds_by_cores_and_the_scaling() -> None:
    lines = table(cells(224, timm=(100.0, 190.0), cache=(300.0, 500.0), decoding=(96.0, 182.4))).splitlines()
    assert lines[2:5] == [
        "| 224 | light | timm | 100 | 190 | 1.90 |",
        "| 224 | light | cache | 300, 3.00 (2.99-3.01) | 500, 2.63 (2.62-2.64) | 1.67 |",
        "| 224 | light | decoding | 96, 0.96 (0.95-0.97) | 182, 0.96 (0.95-0.97) | 1.90 |",
    ]
    assert lines[6:] == [
        "cache, 1 cores: 3.00 times timm's, the aim of 2.0 is met",
        "cache, 2 cores: 2.63 times timm's, the aim of 2.0 is met",
        "cache: 1.67 times as fast on 2 cores as on 1, the aim of 1.8 is missed",
        "decoding, 1 cores: 0.96 times timm's, the aim of 0.95 is met",
        "decoding, 2 cores: 0.96 times timm's, the aim of 0.95 is met",
        "decoding: 1.90 times as fast on 2 cores as on 1, the aim of 1.8 is met",
    ]


def test_other_sides_are_not_judged_and_another_number_of_images_is_that_of_the_next() -> None:
    assert "aim" not in table(cells(32, timm=(100.0, 190.0), cache=(300.0, 500.0)))
    assert [images_of(side) for side in (32, 33, 224, 256, 384, 512)] == [8192, 512, 512, 256, 256, 256]
