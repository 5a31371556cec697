"""A second search on the same files takes the prepared set of the first; one on others, or prepared in another way, does not."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import os
import shutil
import stat
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.decoded_pixels import are_right

from autoslim.core.job import DatasetSpec
from autoslim.data import PreparedDataset, kept_set, open_dataset, prepare, prepare_dataset, prepare_probe, set_keys
from autoslim.data.dataset import SPLITS
from autoslim.data.kept_set import make_room
from autoslim.data.scratch_folder import scratch_folder
from autoslim.data.table import Table
from autoslim.data.unused_cache import unused_files
from autoslim.errors import DatasetError

SIZE = (12, 12)
DAY = 86_400.0


@pytest.fixture(autouse=True)
def prepared(home: Path) -> Path:
    """The folder of the sets that are kept."""
    return home.parent / "prepared"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that are read of sources."""
    seen: list[str] = []
    real = prepare.open_source

    def with_names(table: Table | None) -> Table | None:
        if table is None:
            return None

        def rows(wanted):
            for row in table.rows(wanted):
                seen.append(row[2])
                yield row

        return dataclasses.replace(table, rows=rows)

    def open_source(*given, **named):
        source = real(*given, **named)
        tables = {split: with_names(getattr(source, split)) for split in SPLITS}
        return dataclasses.replace(source, **tables)

    monkeypatch.setattr(prepare, "open_source", open_source)
    return seen


@pytest.fixture
def root(write_parquet) -> Path:
    write_parquet("train.parquet", [0, 1] * 20)
    return write_parquet("test.parquet", [0, 1] * 4, first=900).parent


def _prepare(root: Path, output: Path, *, seed: int = 0, tell=None, **settings) -> PreparedDataset:
    return prepare_dataset(DatasetSpec(source=str(root), **settings), output, seed=seed, inputs=[(SIZE, 1.0)], tell=tell)


def _kept(prepared: Path) -> list[Path]:
    return [path for path in prepared.iterdir() if path.is_dir()]


def test_a_second_output_of_the_same_files_reads_no_image(root, read, tmp_path, prepared):
    first = _prepare(root, tmp_path / "one")
    assert len(read) == 48
    read.clear()
    told: list[str] = []
    second = _prepare(root, tmp_path / "two", tell=told.append)
    assert read == []
    assert second.report == first.report
    assert told == [f"48 images are taken prepared from {prepared}"]
    assert are_right(second, SIZE)
    names = [f"{split}.{end}" for split in SPLITS for end in ("arrow", "keys")]
    assert all((first.path / name).samefile(second.path / name) for name in names), "they take no space twice"


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"validation_share": 0.2}, {"train_limit": 20}, {"drop_duplicates": True}, {"labelled": False}]
)
def test_another_preparation_reads_them(root, read, tmp_path, change):
    _prepare(root, tmp_path / "one")
    read.clear()
    _prepare(root, tmp_path / "two", **change)
    assert len(read) == (32 if "train_limit" in change else 48)


def test_a_file_that_was_written_again_is_read_also_with_the_size_and_time_that_it_had(root, read, write_parquet, tmp_path):
    first = _prepare(root, tmp_path / "one")
    path = root / "test.parquet"
    before, times = path.read_bytes(), path.stat()
    write_parquet("test.parquet", [1, 0] * 4, first=900)
    assert len(path.read_bytes()) == len(before)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    read.clear()
    assert _prepare(root, tmp_path / "two").digest != first.digest
    assert len(read) == 48


def test_the_same_relative_path_in_another_folder_is_another_set(root, read, tmp_path, monkeypatch):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        for file in root.iterdir():
            # The very same files, so that the path alone tells them apart.
            os.link(file, tmp_path / name / file.name)
    monkeypatch.chdir(tmp_path / "here")
    _prepare(Path("../here"), tmp_path / "one")
    read.clear()
    _prepare(Path("../here"), tmp_path / "two")
    assert read == []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    os.rename(tmp_path / "here", tmp_path / "a" / "here")
    (tmp_path / "a" / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a" / "b")
    _prepare(Path("../here"), tmp_path / "three")
    assert len(read) == 48


def test_one_source_is_one_set_however_its_path_is_given(root, read, tmp_path, monkeypatch):
    monkeypatch.chdir(root.parent)
    first = _prepare(Path(root.name), tmp_path / "one")
    read.clear()
    second = _prepare(root, tmp_path / "two")
    assert read == []
    assert (first.report.source, second.report.source) == (root.name, str(root))


def test_another_version_reads_them(root, read, tmp_path, monkeypatch):
    _prepare(root, tmp_path / "one")
    read.clear()
    monkeypatch.setattr(set_keys, "metadata", types.SimpleNamespace(version=lambda _: "9.9"))
    _prepare(root, tmp_path / "two")
    assert len(read) == 48


def test_an_output_stays_whole_when_the_cache_is_deleted_and_the_cache_when_an_output_is(root, read, tmp_path, prepared):
    one, two = _prepare(root, tmp_path / "one"), _prepare(root, tmp_path / "two")
    shutil.rmtree(prepared)
    assert are_right(open_dataset(one.path), SIZE)
    assert are_right(open_dataset(two.path), SIZE)
    read.clear()
    _prepare(root, tmp_path / "three")
    assert len(read) == 48
    shutil.rmtree(tmp_path / "three")
    read.clear()
    assert are_right(_prepare(root, tmp_path / "four"), SIZE)
    assert read == []


def test_how_much_is_decoded_is_each_outputs_own(root, read, tmp_path):
    assert _prepare(root, tmp_path / "one").splits(SIZE).decoded
    read.clear()
    second = _prepare(root, tmp_path / "two", decoded_limit=0)
    assert not second.splits(SIZE).decoded
    assert second.report.decoded_limit == 0
    assert _prepare(root, tmp_path / "three").splits(SIZE).decoded
    assert read == []


def test_pixels_of_another_size_are_made_at_once_with_their_progress(root, tmp_path, monkeypatch):
    _prepare(root, tmp_path / "one")
    monkeypatch.setattr("autoslim.data.progress._WATCH_SECONDS", 0.0)
    counts: list[tuple[int, int]] = []
    spec = DatasetSpec(source=str(root))
    second = prepare_dataset(spec, tmp_path / "two", seed=0, inputs=[((9, 9), 1.0)], watch=lambda *count: counts.append(count))
    assert counts[-1] == (48, 48)
    assert second.kept((9, 9)) == 0, "an earlier search had none of them"
    assert not list(second.path.glob("pixels-*")), "what is sent to an object store with the set is the set alone"
    assert are_right(second, (9, 9))


def test_of_two_preparations_at_once_one_reads_the_images_and_the_other_waits(root, read, tmp_path, monkeypatch):
    monkeypatch.setattr(kept_set, "_LOOK_SECONDS", 0.02)
    waits, told = threading.Event(), list[str]()
    real = prepare._write_new

    def write_new(*given):
        assert waits.wait(60)
        return real(*given)

    def tell(line: str) -> None:
        told.append(line)
        if "waiting" in line:
            waits.set()

    monkeypatch.setattr(prepare, "_write_new", write_new)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda name: _prepare(root, tmp_path / name, tell=tell), ["one", "two"]))
    assert len(read) == 48
    assert both[0].report == both[1].report
    assert told[0] == "another search prepares the same images: waiting for them"


def test_one_that_is_stopped_while_it_prepares_keeps_no_other_waiting(root, read, tmp_path, monkeypatch):
    monkeypatch.setattr(kept_set, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(kept_set, "_PATIENCE_SECONDS", 0.05)
    going_on, real = threading.Event(), prepare._write_new
    first = threading.Event()

    def write_new(*given):
        if not first.is_set():
            first.set()
            assert going_on.wait(60)
        return real(*given)

    monkeypatch.setattr(prepare, "_write_new", write_new)
    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(_prepare, root, tmp_path / "one")
        assert first.wait(60)
        report = _prepare(root, tmp_path / "two").report
        going_on.set()
        assert stopped.result().report == report
    assert len(read) == 96


def test_others_see_that_one_goes_on_whatever_it_does(root, tmp_path, prepared, monkeypatch):
    monkeypatch.setattr(kept_set, "_BEAT_SECONDS", 0.01)
    real, beats = prepare._write_new, set[int]()

    def write_new(*given):
        until = time.monotonic() + 60
        while len(beats) < 3 and time.monotonic() < until:
            beats.update(path.stat().st_mtime_ns for path in prepared.glob("*.beat"))
        return real(*given)

    monkeypatch.setattr(prepare, "_write_new", write_new)
    _prepare(root, tmp_path / "one")
    assert len(beats) == 3
    assert not list(prepared.glob("*.beat"))
    assert "autoslim-beat" not in {thread.name for thread in threading.enumerate()}


def test_a_set_with_an_unreadable_image_is_not_kept(write_parquet, picture, tmp_path, prepared):
    broken = [picture(number) for number in range(39)] + [b"no image"]
    root = write_parquet("train.parquet", [0, 1] * 20, images=broken).parent
    told: list[str] = []
    assert _prepare(root, tmp_path / "one", unreadable_images=1, tell=told.append).images == 39
    assert _kept(prepared) == []
    assert told == ["the prepared images are not kept for later searches, which try the unreadable ones again"]


def test_a_source_that_changes_while_it_is_read_is_not_kept(root, tmp_path, prepared, monkeypatch):
    real = prepare._write_new

    def write_new(*given):
        (root / "test.parquet").touch()
        return real(*given)

    monkeypatch.setattr(prepare, "_write_new", write_new)
    _prepare(root, tmp_path / "one")
    assert _kept(prepared) == []


def test_room_is_made_for_the_images_that_are_used(root, tmp_path, monkeypatch):
    needed: list[int] = []
    monkeypatch.setattr(prepare, "make_room", needed.append)
    _prepare(root, tmp_path / "one")
    _prepare(root, tmp_path / "two", train_limit=20)
    whole = sum(path.stat().st_size for path in root.iterdir())
    assert needed == [whole, whole * 32 // 48]


def test_a_preparation_that_fails_leaves_nothing_and_the_next_one_prepares(write_parquet, picture, read, tmp_path, prepared):
    broken = [picture(number) for number in range(39)] + [b"no image"]
    root = write_parquet("train.parquet", [0, 1] * 20, images=broken).parent
    with pytest.raises(DatasetError, match="1 of 4 images of the validation split"):
        _prepare(root, tmp_path / "one")
    assert _kept(prepared) == []
    write_parquet("train.parquet", [0, 1] * 20)
    _prepare(root, tmp_path / "one")
    assert len(_kept(prepared)) == 1


@pytest.mark.parametrize(
    "damage", ["a file is gone", "a file is shorter", "no list", "a list of nonsense", "a path in the list", "no report"]
)
def test_a_set_that_is_not_whole_is_prepared_again_and_replaced(root, read, tmp_path, prepared, damage):
    _prepare(root, tmp_path / "one")
    shutil.rmtree(tmp_path / "one")
    (kept,) = _kept(prepared)
    if damage == "a file is gone":
        (kept / "train.keys").unlink()
    elif damage == "a file is shorter":
        os.truncate(kept / "train.arrow", 100)
    elif damage == "no list":
        (kept / "files.json").unlink()
    elif damage == "a list of nonsense":
        (kept / "files.json").write_text("[1, 2]")
    elif damage == "no report":
        (kept / "dataset.json").write_text("x" * (kept / "dataset.json").stat().st_size)
    else:
        (kept / "files.json").write_text(json.dumps({"../../outside": 7}))
        (prepared.parent / "outside").write_text("outside")
    read.clear()
    assert are_right(_prepare(root, tmp_path / "two"), SIZE)
    assert len(read) == 48
    read.clear()
    assert are_right(_prepare(root, tmp_path / "three"), SIZE)
    assert read == []


def test_small_sets_are_copied_to_another_file_system_and_large_ones_are_said(root, read, tmp_path, prepared, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    _prepare(root, tmp_path / "one")
    read.clear()
    assert are_right(_prepare(root, tmp_path / "two"), SIZE)
    assert read == []
    shutil.rmtree(prepared)
    monkeypatch.setattr(kept_set, "_COPIED_BYTES", 1000)
    told: list[str] = []
    assert are_right(_prepare(root, tmp_path / "three", tell=told.append), SIZE)
    assert len(read) == 48
    assert "not kept for later searches" in told[0]
    assert "AUTOSLIM_CACHE names another folder" in told[0]
    assert _kept(prepared) == []


def test_a_cache_that_cannot_be_written_costs_no_search(root, read, tmp_path, monkeypatch):
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / "a-file"))
    told: list[str] = []
    assert _prepare(root, tmp_path / "one", tell=told.append).images == 48
    assert "not kept for later searches" in told[0]
    with scratch_folder() as folder:
        assert _prepare(root, folder).images == 48
    assert not folder.exists()


def test_a_cache_that_cannot_be_looked_at_costs_no_search(root, tmp_path, prepared, monkeypatch):
    real = Path.stat

    def refuse(path: Path, **given):
        if prepared in (path, *path.parents):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, **given)

    monkeypatch.setattr(Path, "stat", refuse)
    told: list[str] = []
    assert _prepare(root, tmp_path / "one", tell=told.append).images == 48
    assert "not kept for later searches" in told[0]


def test_a_set_is_taken_from_a_cache_that_can_only_be_read(root, read, tmp_path, prepared, monkeypatch):
    _prepare(root, tmp_path / "one")
    read.clear()
    real = os.utime

    def refuse(path, *given, **named):
        if Path(path).parent == prepared:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        real(path, *given, **named)

    monkeypatch.setattr(os, "utime", refuse)
    assert are_right(_prepare(root, tmp_path / "two"), SIZE)
    assert read == []


def test_a_user_who_keeps_no_decoded_images_keeps_no_sets_either(root, read, tmp_path, prepared, monkeypatch):
    monkeypatch.setenv("AUTOSLIM_CACHE_LIMIT", "0")
    for name in ("one", "two"):
        _prepare(root, tmp_path / name)
    assert len(read) == 96
    assert not prepared.exists()


def test_a_source_that_is_being_written_is_not_kept(root, read, tmp_path, prepared, monkeypatch):
    clock = itertools.count(0)
    # A clock that is behind: every file was changed after it was read.
    monkeypatch.setattr(time, "time_ns", lambda: next(clock))
    _prepare(root, tmp_path / "one")
    assert _kept(prepared) == []


def test_a_new_folder_is_its_owners_alone_and_one_that_is_there_stays_as_it_is(root, tmp_path, prepared):
    _prepare(root, tmp_path / "one")
    assert stat.S_IMODE(prepared.stat().st_mode) == 0o700
    prepared.chmod(0o755)
    _prepare(root, tmp_path / "two", seed=1)
    assert stat.S_IMODE(prepared.stat().st_mode) == 0o755


def test_sets_that_no_output_has_make_room_and_others_stay(root, tmp_path, prepared):
    _prepare(root, tmp_path / "one")
    _prepare(root, tmp_path / "two", seed=1)
    one, two = sorted(_kept(prepared), key=lambda path: not (path / "train.arrow").samefile(_arrow(tmp_path / "one")))
    shutil.rmtree(tmp_path / "one")
    make_room(0)
    assert set(_kept(prepared)) == {one, two}, "it was used just now"
    for path in (one, two):
        os.utime(path, (time.time() - 8 * DAY,) * 2)
    left = prepared / f"{one.name}.partial-1"
    left.mkdir()
    os.utime(left, (time.time() - 2 * DAY,) * 2)
    make_room(0)
    assert _kept(prepared) == [two]
    shutil.rmtree(tmp_path / "two")
    os.utime(two)
    make_room(2**60)
    assert _kept(prepared) == [], "the disk needs it"
    assert list(prepared.glob("*.lock")) == []


def _arrow(output: Path) -> Path:
    (found,) = output.glob("*/train.arrow")
    return found


def test_a_command_without_an_output_takes_the_set_and_leaves_it(root, read, tmp_path, prepared):
    for _ in range(2):
        with scratch_folder() as folder:
            assert are_right(_prepare(root, folder), SIZE)
        assert len(_kept(prepared)) == 1
    assert len(read) == 48
    assert are_right(_prepare(root, tmp_path / "one"), SIZE)
    assert len(read) == 48


def test_what_a_killed_command_left_keeps_no_set(root, tmp_path, prepared):
    left, old = prepared / "scratch-left", (time.time() - 8 * DAY,) * 2
    _prepare(root, left / "data")
    with scratch_folder() as running:
        for folder in prepared.iterdir():
            os.utime(folder, old)
        make_room(0)
        assert _kept(prepared) == [running.parent]


def test_a_folder_that_cannot_be_deleted_costs_no_result(prepared, monkeypatch):
    def refuse(path, **_: object) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))

    with monkeypatch.context() as patch:
        with scratch_folder() as folder:
            patch.setattr(os, "rmdir", refuse)
        assert folder.parent.parent == prepared
        assert folder.exists()


def test_the_folder_of_a_running_command_is_not_deleted_as_unused(root, prepared):
    with scratch_folder() as folder:
        os.utime(folder.parent, (0, 0))
        (unused,) = (found for found in unused_files(DAY) if found.folder == prepared)
        assert unused.busy == (folder.parent,)
        assert not unused.files


def test_a_probe_is_kept_too_and_a_built_in_set_is_not(root, read, tmp_path, prepared):
    images = DatasetSpec(source="digits", train_limit=60)
    prepare_dataset(images, tmp_path / "one", seed=0)
    assert not prepared.exists()
    for name in ("one", "two"):
        prepare_probe(str(root), images, tmp_path / name, seed=0)
    assert len([name for name in read if not name.startswith("digits")]) == 48
