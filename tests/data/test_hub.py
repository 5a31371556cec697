"""Data sets through the library `datasets`, from local folders in the hub's format: nothing here needs a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autoslim.data.hub import hub_name
from autoslim.data.sources import open_source
from autoslim.errors import MissingExtraError

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PROGRAM = """
import json, sys
import numpy as np
from autoslim.data.sources import open_source
from autoslim.data.wanted import Wanted
from autoslim.errors import DatasetError

found = []
for source, choices in json.loads(sys.argv[1]):
    try:
        read = open_source(source, seed=0, wanted=Wanted(**choices))
        rows = [[len(data), name] for _, data, name in read.train.rows(np.arange(len(read.train.labels)))]
        labels = {table.name: table.labels.tolist() for table in read.tables()}
        found.append([read.classes, list(labels.values()), rows, read.chosen, read.not_used])
    except DatasetError as error:
        found.append(str(error))
print(json.dumps(found))
"""


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"--data hf:owner/name needs the package datasets, .*'autoslim\[hub\]'"):
        open_source("hf:owner/name", seed=0)


@pytest.mark.slow
@pytest.mark.short
def test_folders_in_the_hubs_format_are_read(tmp_path: Path, picture) -> None:
    def table(labels: list[int]) -> pa.Table:
        images = pa.array([{"bytes": picture(number), "path": f"{number}.png"} for number in range(len(labels))], STRUCT)
        info = {"info": {"features": {"img": {"_type": "Image"}, "fine": {"names": ["ant", "bee"], "_type": "ClassLabel"}}}}
        return pa.table({"img": images, "fine": labels}).replace_schema_metadata({"huggingface": json.dumps(info)})

    for split, labels in {"train": [0, 1, 1], "test": [1, 0], "extra": [0]}.items():
        file = tmp_path / "parquet" / "data" / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table(labels), file)
    for name in ("ant", "bee"):
        folder = tmp_path / "folder" / "train" / name
        folder.mkdir(parents=True)
        (folder / "0.png").write_bytes(picture(7))
    (tmp_path / "secret.png").write_bytes(picture(8))
    (tmp_path / "bad").mkdir()
    outside = pa.array([{"bytes": None, "path": str(tmp_path / "secret.png")}] * 2, STRUCT)
    pq.write_table(pa.table({"image": outside, "label": ["a", "b"]}), tmp_path / "bad" / "train.parquet")

    asked = [("parquet", {"label_column": "fine"}), ("folder", {}), ("bad", {}), ("parquet", {"config": "x"}), ("nowhere", {})]
    environment = os.environ | {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    # A relative path, too: images of the folder that it names are not outside of it.
    argument = json.dumps([*((f"hf:{tmp_path / name}", choices) for name, choices in asked), ("hf:./folder", {})])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, argument], capture_output=True, text=True, env=environment, timeout=250, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    parquet, folder, bad, other, nowhere, relative = json.loads(done.stdout.splitlines()[-1])
    size = len(picture(0))
    assert parquet[:2] == [["ant", "bee"], [[0, 1, 1], [1, 0]]]
    assert [length for length, _ in parquet[2]] == [size] * 3
    assert parquet[2][1][1] == f"hf:{tmp_path}/parquet (train):1 (1.png)"
    assert parquet[3:] == [["the images of column img"], ["the split extra"]]
    for found in (folder, relative):
        assert found[:2] == [["ant", "bee"], [[0, 1]]]
        assert [length for length, _ in found[2]] == [size] * 2
    assert "names the image" in bad
    assert "leads out of" in bad
    assert other == f"hf:{tmp_path}/parquet has no configuration 'x'; allowed for --data-config: default"
    assert "cannot be loaded" in nowhere


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("hf:owner/name", "owner/name"),
        ("hf://datasets/owner/name@main/data/train.parquet", "owner/name"),
        ("hf://owner/model/w.safetensors", None),
        ("s3://bucket/name", None),
        ("./hf/name", None),
    ],
)
def test_a_data_set_of_the_hub_has_its_name_there_however_it_is_read(source: str, name: str | None):
    assert hub_name(source) == name
