"""Small generated data sets in every layout, and the folder of real ones."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

WriteParquet = Callable[..., Path]
WriteImages = Callable[..., Path]


def encode(pixels: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def picture(number: int, side: int = 12) -> bytes:
    """A PNG of noise, another one for every number."""
    return encode(np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of decoded images in a user's cache of the test's own."""
    monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / "home-cache"))
    monkeypatch.delenv("AUTOSLIM_CACHE_LIMIT", raising=False)
    return tmp_path / "home-cache" / "pixels"


@pytest.fixture(name="picture")
def picture_fixture() -> Callable[[int], bytes]:
    return picture


@pytest.fixture
def write_parquet(tmp_path: Path) -> WriteParquet:
    def write(
        name: str,
        labels: Sequence[int | None],
        *,
        names: Sequence[str] | None = None,
        images: Sequence[bytes] | None = None,
        first: int = 0,
    ) -> Path:
        images = images or [picture(first + number) for number in range(len(labels))]
        image = pa.array(
            [{"bytes": data, "path": f"{first + number}.png"} for number, data in enumerate(images)],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
        table = pa.table({"image": image, "label": pa.array(labels, pa.int64())})
        if names is not None:
            info = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
            table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
        path = tmp_path / "source" / name
        path.parent.mkdir(exist_ok=True)
        pq.write_table(table, path, row_group_size=16)
        return path

    return write


@pytest.fixture
def write_images(tmp_path: Path) -> WriteImages:
    def write(counts: dict[str, int]) -> Path:
        """`counts` maps folders such as `train/cat` to how many images they get."""
        root = tmp_path / "images"
        for number, (folder, count) in enumerate(counts.items()):
            (root / folder).mkdir(parents=True)
            for image in range(count):
                (root / folder / f"{image}.png").write_bytes(picture(1000 * number + image))
        return root

    return write


@pytest.fixture
def real_data() -> Path:
    folder = os.environ.get("AUTOSLIM_DATA")
    if not folder or not Path(folder, "cifar10-mini").is_dir():
        pytest.skip("AUTOSLIM_DATA does not name a folder with cifar10-mini")
    return Path(folder)
