"""A probe is a data set that a tenant names: a plan bounds and opens it as it does the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autoslim.config import read_mapping
from autoslim.service.dry_run.bounds import check_images
from autoslim.service.dry_run.faults import SpecFault


def photos(folder: Path, count: int) -> str:
    for number in range(count):
        kind = folder / ("ant", "bee")[number % 2]
        kind.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(kind / f"{number}.png")
    return str(folder)


def test_a_probe_of_too_many_images_is_refused_by_its_name(tmp_path: Path) -> None:
    spec = read_mapping(
        {
            "model": "deit_tiny_patch16_224",
            "data": photos(tmp_path / "data", 3),
            "flops": "50%",
            "objective": "features",
            "probe": photos(tmp_path / "probe", 8),
        }
    )
    check_images(spec, 8)
    with pytest.raises(SpecFault, match="has more than 5 images") as refused:
        check_images(spec, 5)
    assert refused.value.place == ("probe",)
