"""WebDataset tars: samples of members with one key, read without extracting anything."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from autoslim.core.job import DatasetSpec
from autoslim.data import prepare_dataset, tar_file
from autoslim.data.sources import count_images, open_source
from autoslim.data.wanted import Wanted
from autoslim.errors import DatasetError


def open_at(path: Path | str, **wanted):
    return open_source(str(path), seed=0, wanted=Wanted(**wanted))


def pack(path: Path, members: list[tuple[str, bytes]], *, mode: str = "w", form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=form) as tar:
        for name, data in members:
            head = tarfile.TarInfo(name)
            head.size = len(data)
            tar.addfile(head, io.BytesIO(data))
    return path


@pytest.fixture
def samples(picture):
    def make(labels, *, first: int = 0, suffix: str = "png", label: str = "cls") -> list[tuple[str, bytes]]:
        members = []
        for number, value in enumerate(labels, first):
            members += [(f"{number:06}.{suffix}", picture(number)), (f"{number:06}.{label}", str(value).encode())]
        return members

    return make


@pytest.fixture
def root(tmp_path, samples) -> Path:
    for number in range(2):
        pack(tmp_path / "set" / f"train-{number:06}.tar", samples(["ant", "bee"] * 5, first=10 * number))
    pack(tmp_path / "set" / "val-000000.tar", samples(["bee", "ant"], first=40))
    return tmp_path / "set"


def test_the_shards_of_a_split_are_read_one_after_the_other(root, picture):
    source = open_at(root)
    assert source.classes == ("ant", "bee")
    assert [len(table.labels) for table in source.tables()] == [20, 2]
    assert source.validation.labels.tolist() == [1, 0]
    rows = list(source.train.rows(np.array([0, 7, 13])))
    assert [(data, name) for _, data, name in rows] == [
        (picture(0), "train-000000.tar:000000"),
        (picture(7), "train-000000.tar:000007"),
        (picture(13), "train-000001.tar:000013"),
    ]
    assert (source.chosen, source.not_used) == ((), ())
    assert count_images(str(root), most=100) == 44


def test_they_are_prepared_to_the_image(root, tmp_path):
    report = prepare_dataset(DatasetSpec(source=str(root)), tmp_path / "cache", seed=0).report
    assert (report.train.images, report.validation.images, report.test.images) == (18, 2, 2)


@pytest.mark.parametrize("name", ["one.tar", "one.TAR"])
def test_a_single_tar_is_read(tmp_path, samples, name):
    source = open_at(pack(tmp_path / name, samples([1, 0, 10, 2, 9])))
    assert (source.classes, source.train.labels.tolist()) == (("0", "1", "2", "9", "10"), [1, 0, 4, 2, 3])


def test_a_range_in_braces_names_its_tars(root):
    assert len(open_at(f"{root}/train-{{000000..000001}}.tar").train.labels) == 20
    for pattern, message in {
        "train-{000000..000002}.tar": r"means .*train-000002.tar, which is no .tar that exists",
        "train-{1..0}.tar": "an empty one",
        "{0..1}-{0..1}.tar": "more than one range",
        "train-{0..999999999}.tar": "more than 100,000 files",
    }.items():
        with pytest.raises(DatasetError, match=message):
            open_at(f"{root}/{pattern}")


def test_tars_behind_the_name_of_the_data_set_are_splits_too(tmp_path, samples):
    for name in ("imagenet-train-000000", "imagenet-train-000001", "imagenet-val-000000"):
        pack(tmp_path / "set" / f"{name}.tar", samples([0, 1]))
    source = open_at(tmp_path / "set")
    assert (len(source.train.labels), len(source.validation.labels)) == (4, 2)


def test_two_sets_of_shards_of_one_split_are_refused(root, samples):
    pack(root / "old-train-000000.tar", samples([0, 1]))
    with pytest.raises(DatasetError, match=r"has shards of different names, old-train-, train-, for one split"):
        open_at(root)


def test_tars_without_a_split_in_their_names_are_all_train_and_that_is_said(tmp_path, samples):
    for number in range(3):
        pack(tmp_path / "set" / f"{number:05}.tar", samples([0, 1], first=2 * number))
    source = open_at(tmp_path / "set")
    assert len(source.train.labels) == 6
    assert source.chosen == ("all 3 tars as train, as none is named like a split",)


@pytest.mark.parametrize("place", ["train/{}.tar", "data/train-{}.tar", "large/train-{}.tar"])
def test_tars_may_lie_in_the_folders_that_parquet_may_lie_in(tmp_path, samples, place):
    pack(tmp_path / "set" / place.format("00000"), samples([0, 1]))
    assert len(open_at(tmp_path / "set").train.labels) == 2


@pytest.mark.parametrize("name", ["train.tar", "backup.tar"])
def test_folders_beside_tars_are_what_the_tars_were_packed_from(write_images, samples, name):
    root = write_images({f"{split}/{label}": 2 for split in ("train", "test") for label in ("ant", "bee")})
    pack(root / name, samples([0, 1]))
    source = open_at(root)
    assert (source.classes, source.not_used) == (("ant", "bee"), ("1 files beside the splits",))


def test_labels_are_fields_of_json(tmp_path, picture):
    def members(**fields):
        return [part for key in ("a", "b") for part in ((f"{key}.jpg", picture(1)), (f"{key}.json", json.dumps(fields).encode()))]

    one = pack(tmp_path / "one.tar", [*members(label="x", id=3), *members(label="y", id=4)])
    source = open_at(one)
    assert (source.classes, source.chosen) == (("x", "y"), ("the labels of label in .json",))
    assert open_at(one, label_column="id").classes == ("3", "4")
    with pytest.raises(
        DatasetError, match=r"a.json: other is null; allowed: a text or a whole number, or another --label-column"
    ):
        open_at(one, label_column="other")
    with pytest.raises(DatasetError, match=r"has the columns fine_label, coarse_label, .* --label-column fine_label"):
        open_at(pack(tmp_path / "two.tar", members(fine_label=1, coarse_label=2)))


def test_members_are_chosen_by_the_flags_of_columns(tmp_path, picture):
    parts = [("a.jpg", 0), ("a.mask.png", 1), ("a.fine", "x"), ("b.jpg", 2), ("b.mask.png", 3), ("b.fine", "y")]
    one = pack(
        tmp_path / "one.tar", [(name, value.encode() if isinstance(value, str) else picture(value)) for name, value in parts]
    )
    with pytest.raises(DatasetError, match=r"has the columns jpg, mask.png, .* --image-column jpg"):
        open_at(one)
    with pytest.raises(DatasetError, match=r"no members .cls or .json but .jpg, .mask.png, .fine; --label-column names"):
        open_at(one, image_column="jpg")
    with pytest.raises(DatasetError, match=r"no members .other but .jpg, .mask.png, .fine; --image-column names"):
        open_at(one, image_column="other")
    source = open_at(one, image_column="mask.png", label_column="fine")
    assert [data for _, data, _ in source.train.rows(np.arange(2))] == [picture(1), picture(3)]
    assert source.not_used == ("the members .jpg",)


def test_samples_may_have_images_of_different_suffixes(tmp_path, samples, picture):
    one = pack(tmp_path / "one.tar", [*samples([0], suffix="png"), *samples([1], first=1, suffix="JPEG")])
    source = open_at(one)
    assert [data for _, data, _ in source.train.rows(np.arange(2))] == [picture(0), picture(1)]


def test_a_sample_without_an_image_is_unreadable_and_one_without_a_label_refused(tmp_path, samples):
    source = open_at(pack(tmp_path / "one.tar", [*samples([0, 1]), ("z.cls", b"1")]))
    assert [data for _, data, _ in source.train.rows(np.array([2]))] == [b""]
    with pytest.raises(DatasetError, match=r"000002.cls is missing or no short text in UTF-8; every image needs a label"):
        open_at(pack(tmp_path / "two.tar", samples([0, 1, 2])[:-1]))


@pytest.mark.parametrize("kind", ["pyd", "pkl", "pickle", "PYD", "meta.pkl", "pth", "npy"])
def test_pickles_are_refused_by_their_names(tmp_path, samples, kind):
    data = pickle.dumps(print)
    with pytest.raises(
        DatasetError, match=rf"has the member 'z.{kind}', which may be a pickle, and reading one runs what it says"
    ):
        open_at(pack(tmp_path / "one.tar", [*samples([0, 1]), (f"z.{kind}", data)]))


def test_links_folders_and_hidden_members_are_counted_and_not_followed(tmp_path, samples):
    path = pack(tmp_path / "one.tar", [*samples([0, 1]), ("._000000.png", b"x"), ("README", b"x")])
    with tarfile.open(path, "a") as tar:
        for kind, name in (
            (tarfile.SYMTYPE, "l.png"),
            (tarfile.LNKTYPE, "h.png"),
            (tarfile.DIRTYPE, "d.png"),
            (tarfile.FIFOTYPE, "f.png"),
        ):
            head = tarfile.TarInfo(name)
            head.type, head.linkname = kind, "/etc/passwd"
            tar.addfile(head)
    source = open_at(path)
    assert len(source.train.labels) == 2
    assert source.not_used == ("6 members that are links, folders or without a suffix",)


def test_names_that_lead_elsewhere_are_only_names(tmp_path, picture):
    members = [(f"../../{key}.{kind}", data) for key in "ab" for kind, data in (("png", picture(1)), ("cls", key.encode()))]
    before = sorted(tmp_path.rglob("*"))
    source = open_at(pack(tmp_path / "one.tar", members))
    assert [name for _, _, name in source.train.rows(np.arange(2))] == ["one.tar:../../a", "one.tar:../../b"]
    assert sorted(tmp_path.rglob("*")) == [*before, tmp_path / "one.tar"]


def test_links_to_tars_elsewhere_are_refused(root, tmp_path):
    (root / "train-000001.tar").rename(tmp_path / "outside.tar")
    (root / "train-000001.tar").symlink_to(tmp_path / "outside.tar")
    with pytest.raises(DatasetError, match=r"train-000001.tar is a link that leads out of"):
        open_at(root)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("one.tar", b"no tar at all" * 100, "is not a readable, uncompressed tar"),
        ("one.tar", b"", "is not a readable, uncompressed tar|no members such as"),
        ("one.tar", bytes(10240), "has no members such as KEY.jpg and KEY.cls"),
        ("one.tar.gz", b"", "one.tar.gz is an archive; unpack it"),
        ("one.zip", b"", "one.zip is an archive; unpack it"),
    ],
)
def test_files_that_are_no_tars_are_refused(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DatasetError, match=message):
        open_at(tmp_path / name)


def test_a_compressed_tar_is_refused(tmp_path, samples):
    with pytest.raises(DatasetError, match="is not a readable, uncompressed tar"):
        open_at(pack(tmp_path / "one.tar", samples([0, 1]), mode="w:gz"))


def test_a_head_that_claims_more_than_a_name_is_not_read(tmp_path, samples):
    path = pack(tmp_path / "one.tar", [*samples([0, 1]), (f"{'long' * 50}.png", b"x")])
    data = path.read_bytes()
    place = data.index(b"PaxHeader") // 512 * 512
    head = bytearray(data[place : place + 512])
    head[124:136] = b"%011o\0" % (2**32)
    head[148:156] = b"%06o\0 " % (sum(head[:148]) + 8 * 32 + sum(head[156:]))
    path.write_bytes(data[:place] + head + data[place + 512 :])
    with pytest.raises(DatasetError, match=r"the head of a member has 4,294,967,\d+ bytes; allowed: at most 1,048,576"):
        open_at(path)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_every_form_of_tar_is_read_and_damage_never_raises_anything_else(tmp_path, samples, form):
    path = pack(tmp_path / "one.tar", [*samples(["ä", "b"] * 3), (f"{'x' * 90}.png", b"x"), (f"{'x' * 90}.cls", b"b")], form=form)
    assert len(open_at(path).train.labels) == 7
    whole, generator = path.read_bytes(), np.random.default_rng(form)
    for turn in range(80):
        data = bytearray(whole)
        for place in generator.integers(0, len(data), 12):
            data[place] = generator.integers(0, 256)
        path.write_bytes(data[: generator.integers(0, len(data))] if turn % 5 == 0 else data)
        try:
            source = open_at(path)
            list(source.train.rows(np.arange(len(source.train.labels))))
        except DatasetError:
            continue


def test_too_many_samples_and_json_of_any_size_are_refused(tmp_path, samples, monkeypatch):
    path = pack(tmp_path / "one.tar", samples(["{}", "{}"], label="json"))
    with pytest.raises(DatasetError, match=r"one.tar: .json has no column 'label' but none"):
        open_at(path)
    monkeypatch.setattr(tar_file, "_MAX_JSON", 1)
    with pytest.raises(DatasetError, match=r"000000.json is missing or no JSON object of at most 0 MiB"):
        open_at(path, label_column="x")
    monkeypatch.setattr(tar_file, "MAX_ROWS", 1)
    with pytest.raises(DatasetError, match="has more than 1 samples"):
        open_at(path)


def test_images_alone_need_no_labels(tmp_path, samples):
    source = open_at(pack(tmp_path / "one.tar", samples([0, 1, 2])), labelled=False)
    assert (source.classes, len(source.train.labels), source.not_used) == ((), 3, ("the members .cls",))


@pytest.mark.parametrize("cut", [False, True])
def test_a_damaged_or_cut_tar_is_no_smaller_data_set(root, cut):
    path = root / "train-000000.tar"
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        head = tar.getmembers()[2].offset
    if cut:
        del data[head + 100 :]
    else:
        data[head] ^= 1
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="is damaged or cut"):
        open_at(root)


def test_a_tar_cut_between_two_members_is_refused(root):
    path = root / "train-000000.tar"
    with tarfile.open(path) as tar:
        head = tar.getmembers()[2].offset
    path.write_bytes(path.read_bytes()[:head])
    with pytest.raises(DatasetError, match="is damaged or cut"):
        open_at(root)


@pytest.mark.parametrize("size", [-1, -2, -512])
def test_a_member_of_a_negative_size_is_refused(root, size):
    path = root / "train-000000.tar"
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        member = tar.getmembers()[2]
        member.size = size
        block = bytearray(member.tobuf(format=tarfile.GNU_FORMAT))
    data[member.offset : member.offset + 512] = block[:512]
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="is not a readable, uncompressed tar"):
        open_at(root)
