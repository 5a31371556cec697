"""Decoded images are kept between searches: what did not change is decoded once, and a cache costs time at most."""

from __future__ import annotations

import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.decoded_pixels import are_right
from helpers.kept_sets import forget_kept_sets

from autoslim.core import user_cache
from autoslim.core.job import DatasetSpec
from autoslim.data import PreparedDataset, dataset, prepare_dataset
from autoslim.data.decode import decode_rgb
from autoslim.data.pixel_file import CHECK_BYTES, HASH_BYTES, bytes_in_file, pixel_bytes
from autoslim.errors import RequestError

pytestmark = pytest.mark.usefixtures("home")

SIZE = (12, 12)
ONE = bytes_in_file(SIZE)
"""Bytes of an image in a file."""


@pytest.fixture
def decoded(monkeypatch) -> list[bytes]:
    """The images that are decoded for their pixels."""
    seen: list[bytes] = []

    def decode(data: bytes):
        seen.append(data)
        return decode_rgb(data)

    monkeypatch.setattr(dataset, "decode_rgb", decode)
    return seen


@pytest.fixture
def root(write_parquet) -> Path:
    for number in range(3):
        write_parquet(f"train-{number:05}-of-00003.parquet", [0, 1] * 10, first=100 * number)
    return write_parquet("test.parquet", [0, 1] * 4, first=900).parent


def _prepare(root: Path, output: Path, *, seed: int = 0) -> PreparedDataset:
    forget_kept_sets()
    return prepare_dataset(DatasetSpec(source=str(root)), output, seed=seed)


def _files(home: Path) -> list[Path]:
    return sorted(home.glob("*/*.pixels"))


def test_a_second_output_folder_decodes_nothing_and_takes_no_space(root, decoded, tmp_path):
    first = _prepare(root, tmp_path / "one")
    assert are_right(first, SIZE)
    assert len(decoded) == 68
    decoded.clear()
    second = _prepare(root, tmp_path / "two")
    assert are_right(second, SIZE)
    assert decoded == []
    for split in dataset.SPLITS:
        assert os.path.samefile(*(one.path / "pixels-12x12" / f"{split}.pixels" for one in (first, second)))


def test_other_splits_of_the_same_images_decode_nothing(root, decoded, home, tmp_path):
    assert are_right(_prepare(root, tmp_path / "one"), SIZE)
    decoded.clear()
    kept = _files(home)
    assert are_right(_prepare(root, tmp_path / "one", seed=1), SIZE)
    assert decoded == []
    assert _files(home) == kept


def test_after_one_shard_is_exchanged_exactly_its_images_are_decoded(root, decoded, write_parquet, picture, tmp_path):
    _prepare(root, tmp_path / "one").splits(SIZE)
    decoded.clear()
    write_parquet("train-00001-of-00003.parquet", [0, 1] * 10, first=500)
    assert are_right(_prepare(root, tmp_path / "two"), SIZE)
    assert sorted(decoded) == sorted(picture(500 + number) for number in range(20))
    decoded.clear()
    assert are_right(_prepare(root, tmp_path / "three"), SIZE)
    assert decoded == []


def test_a_copy_of_the_data_set_elsewhere_has_its_pixels(root, decoded, tmp_path):
    _prepare(root, tmp_path / "one").splits(SIZE)
    decoded.clear()
    shutil.copytree(root, tmp_path / "moved")
    assert are_right(_prepare(tmp_path / "moved", tmp_path / "two"), SIZE)
    assert decoded == []


@pytest.mark.parametrize("size", [(10, 12), (12, 10)])
def test_another_size_is_decoded(root, decoded, tmp_path, size):
    _prepare(root, tmp_path / "one").splits((10, 12))
    decoded.clear()
    _prepare(root, tmp_path / "two").splits(size)
    assert len(decoded) == (0 if size == (10, 12) else 68)


def test_another_decoder_decodes_anew(root, decoded, tmp_path, monkeypatch):
    _prepare(root, tmp_path / "one").splits(SIZE)
    decoded.clear()
    monkeypatch.setattr("autoslim.data.decode._DECODER", -1)
    _prepare(root, tmp_path / "two").splits(SIZE)
    assert len(decoded) == 68


def _overwrite(path: Path, place: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(data)


@pytest.mark.parametrize(
    ("damage", "again"),
    [
        (lambda path, count: _overwrite(path, 2 * pixel_bytes(SIZE) + 7, b"xyz"), 3),
        (lambda path, count: _overwrite(path, count * pixel_bytes(SIZE), b"other key"), 3),
        # The pixels of one image with the key of another.
        (lambda path, count: _overwrite(path, 0, path.read_bytes()[pixel_bytes(SIZE) : 2 * pixel_bytes(SIZE)]), 3),
        (lambda path, count: _overwrite(path, path.stat().st_size - 5, b"check"), 3),
        (lambda path, count: os.truncate(path, path.stat().st_size - 1), 68),
        (lambda path, count: os.truncate(path, ONE), 68),
        (lambda path, count: path.write_bytes(b""), 68),
        (lambda path, count: path.unlink(), 68),
    ],
    ids=["pixels", "key", "exchanged pixels", "check", "shorter by a byte", "one image's length", "empty", "gone"],
)
def test_what_is_damaged_is_decoded_again_and_mended(root, decoded, home, tmp_path, damage, again):
    """In each of the three files, for the splits."""
    _prepare(root, tmp_path / "one").splits(SIZE)
    # Its files are those of the cache.
    shutil.rmtree(tmp_path / "one")
    for path in _files(home):
        damage(path, path.stat().st_size // ONE)
    decoded.clear()
    assert are_right(_prepare(root, tmp_path / "two"), SIZE)
    assert len(decoded) == again
    decoded.clear()
    assert are_right(_prepare(root, tmp_path / "three"), SIZE)
    assert decoded == []


def test_a_damaged_file_is_said(root, decoded, home, tmp_path, caplog):
    _prepare(root, tmp_path / "one").splits(SIZE)
    first, *others = _files(home)
    _overwrite(first, 0, b"xyz")
    others[0].write_bytes(b"xyz")
    assert are_right(_prepare(root, tmp_path / "two", seed=1), SIZE)
    assert f"{first} is damaged: what does not fit was decoded again" in caplog.text
    assert f"passed over: {others[0]} has 3 bytes" in caplog.text


def test_the_limit_holds_and_what_was_used_last_stays(write_images, decoded, home, tmp_path, monkeypatch):
    roots = []
    for number in range(3):
        images = write_images({f"ant{number}": 10, f"bee{number}": 10})
        roots.append(images.rename(tmp_path / f"set{number}"))
    # The sets have the same images, at three sizes; two of the largest fit.
    monkeypatch.setenv("AUTOSLIM_CACHE_LIMIT", str(2 * 20 * (12 * 12 * 3 + HASH_BYTES + CHECK_BYTES)))
    sizes = [(12, 12), (12, 11), (12, 10)]

    def use(number: int, output: str) -> int:
        decoded.clear()
        _prepare(roots[number], tmp_path / output).splits(sizes[number])
        assert sum(path.stat().st_size for path in _files(home)) <= user_cache.cache_limit()
        return len(decoded)

    assert [use(0, "a"), use(1, "b"), use(0, "c"), use(2, "d")] == [20, 20, 0, 20]
    assert [use(0, "e"), use(2, "f")] == [0, 0]
    assert use(1, "g") == 20


def test_more_than_the_limit_is_not_kept_and_said(root, decoded, home, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("AUTOSLIM_CACHE_LIMIT", str(20 * ONE))
    assert are_right(_prepare(root, tmp_path / "one"), SIZE)
    # The splits for validation and test fit.
    assert sum(path.stat().st_size for path in _files(home)) == 14 * ONE
    assert "are not kept for later searches; allowed: 9600 (AUTOSLIM_CACHE_LIMIT)" in caplog.text


def test_a_limit_of_nothing_keeps_and_reads_nothing(root, decoded, home, tmp_path, monkeypatch, caplog):
    _prepare(root, tmp_path / "one").splits(SIZE)
    kept = _files(home)
    decoded.clear()
    monkeypatch.setenv("AUTOSLIM_CACHE_LIMIT", "0")
    assert are_right(_prepare(root, tmp_path / "two"), SIZE)
    assert len(decoded) == 68
    assert (_files(home), caplog.text) == (kept, "")


@pytest.mark.parametrize(("text", "limit"), [("0", 0), ("1000", 1000), ("2K", 2048), ("1.5 GiB", 3 * 2**29), ("", 16 * 2**30)])
def test_limits_are_bytes_in_units_of_1024(monkeypatch, text, limit):
    monkeypatch.setenv("AUTOSLIM_CACHE_LIMIT", text)
    assert user_cache.cache_limit() == limit


@pytest.mark.parametrize("text", ["much", "-1", "5%", "1e3"])
def test_other_limits_are_refused(monkeypatch, text):
    monkeypatch.setenv("AUTOSLIM_CACHE_LIMIT", text)
    with pytest.raises(RequestError, match=rf"^AUTOSLIM_CACHE_LIMIT is '{text}'; allowed: bytes, such as 500M"):
        user_cache.cache_limit()


def _no_links(monkeypatch) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", link)


def test_another_file_system_gets_copies(root, decoded, tmp_path, monkeypatch):
    _no_links(monkeypatch)
    first = _prepare(root, tmp_path / "one")
    first.splits(SIZE)
    decoded.clear()
    second = _prepare(root, tmp_path / "two")
    assert are_right(second, SIZE)
    assert decoded == []
    assert not os.path.samefile(*(one.path / "pixels-12x12" / "train.pixels" for one in (first, second)))


def test_a_full_disk_is_said_and_costs_the_next_search_its_time(root, decoded, home, tmp_path, monkeypatch, caplog):
    _no_links(monkeypatch)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2 * 50 * ONE))
    assert are_right(_prepare(root, tmp_path / "one"), SIZE)
    # Of the training images, a copy would leave less free than it takes.
    assert sum(path.stat().st_size for path in _files(home)) == 14 * ONE
    assert "No space left on device" in caplog.text
    assert "AUTOSLIM_CACHE names another folder" in caplog.text
    decoded.clear()
    assert are_right(_prepare(root, tmp_path / "two"), SIZE)
    assert len(decoded) == 54


def test_a_folder_that_cannot_be_written_is_said(root, decoded, home, tmp_path, caplog):
    home.parent.mkdir()
    home.write_text("a file")
    assert are_right(_prepare(root, tmp_path / "one"), SIZE)
    assert "decoded images cannot be kept" in caplog.text


def test_several_searches_at_once_agree(root, decoded, home, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: are_right(_prepare(root, tmp_path / str(number), seed=number % 2), SIZE), range(4)))
    assert found == [True] * 4
    assert not list(home.glob("**/*.partial"))
    assert home.stat().st_mode & 0o777 == 0o700


def test_what_is_taken_is_said_before_it_is(root, tmp_path):
    first = _prepare(root, tmp_path / "one")
    assert first.lines([(SIZE, 1.0)]) == first.report.lines()
    first.splits(SIZE)
    second = _prepare(root, tmp_path / "two", seed=1)
    inputs = [(SIZE, 1.0), ((6, 6), 0.5), ((9, 9), 1.0)]
    assert second.lines(inputs)[-1] == f"68 of 68 images are taken decoded, at 12x12, from {tmp_path / 'home-cache'}"
    assert len(second.lines(inputs)) == len(second.report.lines()) + 1
    second.splits(SIZE)
    assert second.kept(SIZE) == 0


def test_a_folder_that_an_earlier_version_prepared_is_read(root, decoded, tmp_path):
    _prepare(root, tmp_path / "one").splits(SIZE)
    second = _prepare(root, tmp_path / "two")
    for path in second.path.glob("*.keys"):
        path.unlink()
    decoded.clear()
    assert are_right(second, SIZE)
    assert decoded == []
