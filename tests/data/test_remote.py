"""Data sets in object stores are what they are locally, fetched and prepared once on each node."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from autoslim.core.job import DatasetSpec
from autoslim.data import PreparedDataset, open_reference, prepare, prepare_dataset, progress, sample_source
from autoslim.errors import DatasetError, StorageError
from autoslim.storage import StorageUri, upload_folder


@pytest.fixture(autouse=True)
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of the node that a test begins on."""
    monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / "node"))
    return tmp_path / "node"


def prepared(source: str, tmp_path: Path, **choices: object) -> PreparedDataset:
    return prepare_dataset(DatasetSpec(source=source, **choices), tmp_path / "not-used", seed=0)


def write_tars(images: Path, folder: Path) -> None:
    folder.mkdir()
    for shard, place in enumerate(sorted(images.iterdir())):
        with tarfile.open(folder / f"train-{shard:03}.tar", "w") as tar:
            for path in sorted(place.iterdir()):
                (folder / "label").write_text(place.name)
                tar.add(path, f"{place.name}-{path.name}")
                tar.add(folder / "label", f"{place.name}-{path.stem}.cls")
    (folder / "label").unlink()


@pytest.mark.parametrize("layout", ["one file", "shards", "class folders", "tar range"])
def test_it_is_the_data_set_that_it_is_locally(layout: str, write_parquet, write_images, tmp_path: Path, node: Path) -> None:
    if layout in ("one file", "shards"):
        write_parquet("train-00000-of-00002.parquet", [0, 1] * 10, names=["cat", "dog"])
        path = write_parquet("train-00001-of-00002.parquet", [0, 1] * 10, names=["cat", "dog"], first=50)
        source = str(path if layout == "one file" else path.parent)
    else:
        source = str(write_images({"cat": 10, "dog": 10}))
    if layout == "tar range":
        write_tars(Path(source), tmp_path / "tars")
        source = f"{tmp_path}/tars/train-{{000..001}}.tar"
    local, remote = prepared(source, tmp_path), prepared(f"file://{source}", tmp_path)
    assert (remote.digest, remote.classes) == (local.digest, local.classes)
    assert remote.report.source == f"file://{source}"
    assert remote.path.parent == node / "prepared"
    assert local.path.parent == tmp_path / "not-used"


def test_it_is_fetched_and_prepared_once_for_each_content(
    write_images, tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_images({"cat": 10, "dog": 10})
    first = prepared(root.as_uri(), tmp_path)
    with monkeypatch.context() as patch:
        patch.delattr(prepare, "open_remote")
        assert prepared(root.as_uri(), tmp_path).path == first.path
    (root / "cat" / "0.png").write_bytes((root / "dog" / "0.png").read_bytes())
    assert prepared(root.as_uri(), tmp_path).path != first.path
    assert len(list((node / "storage").glob("*/images"))) == 2


def test_another_node_prepares_the_same_from_its_uri_alone(write_images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_images({"cat": 10, "dog": 10})
    here = prepared(root.as_uri(), tmp_path)
    assert str(tmp_path / "node") not in here.reference
    monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / "other-node"))
    there = open_reference(here.reference)
    assert (there.digest, there.path.name) == (here.digest, here.path.name)
    assert there.path.is_relative_to(tmp_path / "other-node")
    root.rename(tmp_path / "gone")
    assert open_reference(here.reference).path == there.path, "the store is not asked again"
    monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / "third-node"))
    (tmp_path / "gone" / "cat" / "0.png").unlink()
    (tmp_path / "gone").rename(root)
    with pytest.raises(DatasetError, match="have changed since the search has prepared them; run it again with --resume"):
        open_reference(here.reference)


def test_a_node_that_prepares_it_says_how_long_that_takes(write_images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = prepared(write_images({"cat": 10, "dog": 10}).as_uri(), tmp_path)
    monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / "other-node"))
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0.0)
    told: list[str] = []
    open_reference(here.reference, tell=told.append)
    assert told[0].startswith("preparing images: 1 of 20, about ")
    told.clear()
    open_reference(here.reference, tell=told.append)
    assert told == []


def test_a_local_one_is_opened_by_its_path(write_images, tmp_path: Path) -> None:
    here = prepared(str(write_images({"cat": 10, "dog": 10})), tmp_path)
    assert open_reference(here.reference).path == here.path


def test_a_few_images_for_a_picture_are_read_from_it(write_images) -> None:
    spec = DatasetSpec(source=write_images({"cat": 10, "dog": 10}).as_uri())
    sample = sample_source(spec, "test", (12, 12), 1.0, 2, seed=0)
    assert (sample.pixels.shape, sample.classes) == ((2, 12, 12, 3), ("cat", "dog"))


def test_errors_name_the_uri(write_images, tmp_path: Path) -> None:
    root = write_images({"cat": 10, "dog": 10})
    (root / "rat").mkdir()
    (root / "rat" / "notes.txt").write_text("no image")
    with pytest.raises(DatasetError, match=f"class 'rat' is empty: {root.as_uri()}/rat has no file"):
        prepared(root.as_uri(), tmp_path)


@pytest.mark.parametrize(
    ("name", "choices", "said"),
    [
        ("all.csv", {}, "is a manifest, whose images are fetched with its folder"),
        ("train-{000..009}.tar", {}, "means no file that is there"),
        (
            "",
            {"token_labels": "./labels"},
            r"token_labels is './labels', a folder of this machine, but the images are at file://",
        ),
    ],
)
def test_what_cannot_be_fetched_is_refused(name: str, choices: dict[str, str], said: str, write_images, tmp_path: Path) -> None:
    root = write_images({"cat": 10, "dog": 10})
    with pytest.raises(DatasetError, match=said):
        prepared(f"{root.as_uri()}/{name}".rstrip("/"), tmp_path, **choices)


@pytest.mark.parametrize("name", ["x", "all.csv", "train-{0..9}.tar"])
def test_credentials_are_refused_and_not_repeated(name: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError) as found:
        prepared(f"s3://key:canary@photos/{name}", tmp_path)
    assert "canary" not in str(found.value)


@pytest.mark.slow
@pytest.mark.short
def test_it_comes_from_an_s3_server(bucket: str, write_images, tmp_path: Path) -> None:
    root = write_images({"cat": 10, "dog": 10})
    upload_folder(root, StorageUri.parse(f"s3://{bucket}/flowers"))
    remote = prepared(f"s3://{bucket}/flowers", tmp_path)
    assert remote.digest == prepared(str(root), tmp_path).digest
    assert "canary" not in remote.reference
