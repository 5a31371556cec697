"""Folders of `save_to_disk`, written here with pyarrow as `datasets` does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from autoslim.data import saved_arrow
from autoslim.data.sources import count_images, open_source
from autoslim.data.wanted import Wanted
from autoslim.errors import DatasetError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def open_at(path: Path, **wanted):
    return open_source(str(path), seed=0, wanted=Wanted(**wanted))


def save(folder: Path, *tables: pa.Table, options: pa.ipc.IpcWriteOptions | None = None, rows: int = 3) -> Path:
    """One split, with an Arrow stream for each table."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05}-of-{len(tables):05}.arrow" for number in range(len(tables))]
    for name, table in zip(names, tables, strict=True):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=rows)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names], "_split": None}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


@pytest.fixture
def table(picture):
    def make(labels, *, first: int = 0, names=("ant", "bee"), label: str = "label", image: str = "image") -> pa.Table:
        images = pa.array([{"bytes": picture(first + number), "path": None} for number in range(len(labels))], IMAGE)
        made = pa.table({image: images, label: labels})
        features = {"image": {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}
        return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}) if names else made

    return make


@pytest.fixture
def saved(tmp_path, table) -> Path:
    root = tmp_path / "saved"
    save(root / "train", table([0, 1] * 5), table([1, 0] * 2, first=20))
    save(root / "test", table([0, 1], first=40))
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    return root


def test_the_splits_of_a_dictionary_are_read(saved, picture):
    source = open_at(saved)
    assert source.classes == ("ant", "bee")
    assert source.train.labels.tolist() == [0, 1] * 5 + [1, 0] * 2
    assert source.test.labels.tolist() == [0, 1]
    assert (source.validation, source.chosen, source.not_used) == (None, (), ())
    rows = list(source.train.rows(np.array([4, 9, 10, 13])))
    assert [data for _, data, _ in rows] == [picture(number) for number in (4, 9, 20, 23)]
    assert [name for _, _, name in rows][::3] == ["data-00000-of-00002.arrow:4", "data-00001-of-00002.arrow:3"]
    assert count_images(str(saved), most=100) == 16
    assert 5 < count_images(str(saved), most=5) < 16


def test_a_single_data_set_is_all_train(tmp_path, table):
    source = open_at(save(tmp_path / "one", table(["bee", "ant", "bee"], names=(), label="species", image="img")))
    assert (source.classes, source.train.labels.tolist(), source.test) == (("ant", "bee"), [1, 0, 1], None)
    assert source.chosen == ("the images of column img", "the labels of column species")


def test_columns_are_chosen_as_in_parquet(tmp_path, table):
    made = table([0, 1, 1], label="fine_label").append_column("coarse_label", pa.array([0, 0, 1]))
    root = save(tmp_path / "one", made)
    with pytest.raises(DatasetError, match=r"fine_label, coarse_label, .* --label-column fine_label"):
        open_at(root)
    source = open_at(root, label_column="fine_label")
    assert (source.classes, source.not_used) == (("ant", "bee"), ("the columns coarse_label",))


def test_dictionaries_and_images_alone_are_read(tmp_path, table):
    root = save(tmp_path / "one", table(pa.array(["b", "a", "b", "c"]).dictionary_encode(), names=()))
    assert open_at(root).train.labels.tolist() == [1, 0, 1, 2]
    source = open_at(root, labelled=False)
    assert (source.classes, source.train.labels.tolist()) == ((), [0] * 4)


def test_other_splits_and_what_lies_beside_are_said(saved, table):
    save(saved / "extra", table([0, 1]))
    (saved / "more").mkdir()
    (saved / "README.md").touch()
    (saved / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test", "extra"]}))
    assert open_at(saved).not_used == (
        "the split extra, which is neither train, validation nor test",
        "the folder more",
        "1 files beside the splits",
    )


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ("{", "dataset_dict.json cannot be read as JSON"),
        ("[1]", "is no JSON object"),
        ("{}", "has no list of splits"),
        ('{"splits": [1]}', "has no list of splits"),
        ('{"splits": ["test"]}', "has the splits test but no train"),
        ('{"splits": ["train", "training"]}', "state.json cannot be read|two train splits"),
        ('{"splits": ["train", "validation"]}', "validation/state.json cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
    ],
)
def test_a_list_of_splits_that_is_wrong_is_refused(saved, splits, message):
    (saved / "dataset_dict.json").write_text(splits)
    with pytest.raises(DatasetError, match=message):
        open_at(saved)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("{", "state.json cannot be read"),
        ("{}", "names no data files"),
        ('{"_data_files": []}', "names no data files"),
        ('{"_data_files": [3]}', "names the data file None"),
        ('{"_data_files": [{"filename": "../secret.arrow"}]}', "names the data file '../secret.arrow'; allowed: a file in"),
        ('{"_data_files": [{"filename": "/etc/passwd"}]}', "names the data file '/etc/passwd'"),
        ('{"_data_files": [{"filename": ".."}]}', "names the data file '..'"),
        ('{"_data_files": [{"filename": "none.arrow"}]}', "has no none.arrow, which its state.json names"),
        ('{"_data_files": [{"filename": "linked.arrow"}]}', "linked.arrow is a link that leads out of"),
        ('{"_data_files": [{"filename": "a.arrow"}], "_indices_files": [{"filename": "b"}]}', "indices beside them"),
    ],
)
def test_a_state_that_names_something_else_is_refused(saved, tmp_path, state, message):
    (tmp_path / "secret.arrow").write_bytes(b"secret")
    (saved / "train" / "linked.arrow").symlink_to(tmp_path / "secret.arrow")
    (saved / "train" / "state.json").write_text(state)
    with pytest.raises(DatasetError, match=message):
        open_at(saved)


def test_a_split_that_is_a_link_out_of_the_folder_is_refused(saved, tmp_path):
    (saved / "test").rename(tmp_path / "outside")
    (saved / "test").symlink_to(tmp_path / "outside")
    with pytest.raises(DatasetError, match="test is a link that leads out of"):
        open_at(saved)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
@pytest.mark.parametrize("encoded", [False, True])
def test_compressed_batches_are_refused_before_they_are_unpacked(tmp_path, table, compression, encoded):
    labels = pa.array(["a" * 100, "b" * 100] * 3)
    made = table(labels.dictionary_encode() if encoded else labels, names=())
    root = save(tmp_path / "one", made, options=pa.ipc.IpcWriteOptions(compression=compression))
    for read in (open_at, lambda root: count_images(str(root), most=9)):
        with pytest.raises(DatasetError, match="has compressed batches; allowed: what save_to_disk writes"):
            read(root)


def test_damaged_streams_never_raise_anything_else(saved):
    file = saved / "train" / "data-00000-of-00002.arrow"
    whole, generator = file.read_bytes(), np.random.default_rng(0)
    refused = 0
    for turn in range(300):
        data = bytearray(whole)
        # Three in four of the changes are in the heads of the file and of its batches, where the offsets are.
        places = generator.integers(0, 1200 if turn % 4 else len(data), 4)
        for place in places:
            data[place] = generator.integers(0, 256)
        file.write_bytes(data[: generator.integers(10, len(data))] if turn % 9 == 0 else data)
        try:
            source = open_at(saved)
            list(source.train.rows(np.arange(len(source.train.labels))))
        except DatasetError:
            refused += 1
    assert refused > 50


def test_too_many_rows_are_refused(saved, monkeypatch):
    monkeypatch.setattr(saved_arrow, "MAX_ROWS", 8)
    with pytest.raises(DatasetError, match="has more than 8 rows"):
        open_at(saved)


def test_offsets_that_lead_out_of_the_data_are_found(tmp_path, table):
    root = save(tmp_path / "one", table(["ant", "bee", "ant", "bee"], names=()), rows=4)
    file = next(root.glob("*.arrow"))
    offsets = np.array([0, 3, 6, 9, 12], np.int32).tobytes()
    data = file.read_bytes()
    assert data.count(offsets) == 1
    file.write_bytes(data.replace(offsets, np.array([0, 3, 6, 9, 2**30], np.int32).tobytes()))
    with pytest.raises(DatasetError, match="is damaged near row 4"):
        open_at(root)


def test_a_stream_that_is_cut_between_two_batches_is_refused(tmp_path, table):
    folder = tmp_path / "cut"
    save(folder, table([0, 1] * 3), rows=1)
    (path,) = folder.glob("*.arrow")
    ends = [0]
    with pa.OSFile(str(path)) as file:
        messages = pa.ipc.MessageReader.open_stream(file)
        for _ in messages:
            ends.append(file.tell())
    path.write_bytes(path.read_bytes()[: ends[3]])
    with pytest.raises(DatasetError, match="is cut: the mark of a stream's end is missing"):
        open_at(folder)
