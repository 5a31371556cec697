"""A search whose data set lies in an object store, on a node that shares no cache with the driver."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from helpers.ray_head import ray_head
from helpers.s3_server import SECRET
from helpers.workers_command import SEARCH, Search
from PIL import Image

from autoslim.storage import StorageUri, upload_folder

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("no_search_is_left")]


def test_driver_and_node_each_fetch_and_prepare_it_once(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Ray's own helpers for tests start nodes without one.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    numbers = np.random.default_rng(0)
    for place in (tmp_path / "images" / f"class {label}" / f"{image}.png" for label in range(3) for image in range(30)):
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbers.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(place)
    upload_folder(tmp_path / "images", StorageUri.parse(f"s3://{bucket}/images"))
    with ray_head(cpus=0) as nodes:
        nodes.add_node(num_cpus=1, env_vars={"AUTOSLIM_CACHE": str(tmp_path / "node")})
        monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / "driver"))
        flags = [*SEARCH, "--data", f"s3://{bucket}/images", "--address", nodes.address, "--resources", "cpu=1"]
        # Two trials for each of the two budgets.
        search = Search(
            *flags, "--trials", "4", "--final-share", "0", "--speed", "none", "--forms", "none", "--output", str(tmp_path / "run")
        )
        assert search.end() == 0, search.text
    caches = [tmp_path / "driver", tmp_path / "node"]
    prepared = [{path.name for path in (cache / "prepared").iterdir() if path.is_dir()} for cache in caches]
    assert prepared[0] == prepared[1]
    assert len(prepared[0]) == 1
    assert [len(list((cache / "storage").glob("*/images"))) for cache in caches] == [1, 1]
    assert SECRET not in search.text
    written = (path for path in (tmp_path / "run").rglob("*") if path.is_file() and os.access(path, os.R_OK))
    assert [path for path in written if SECRET.encode() in path.read_bytes()] == []
