"""Files and folders are found complete or not at all."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from autoslim.core.files import (
    is_disk_full,
    move_folder,
    partial_folder,
    previous_folder,
    publish_folder,
    replacing_file,
    short_path,
    write_atomically,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", ["naïve", b"\x00\xff"])
def test_a_file_is_replaced_and_nothing_else_stays(tmp_path, content):
    target = tmp_path / "facts.json"
    target.write_text("old")
    write_atomically(target, content)
    assert target.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert names(tmp_path) == ["facts.json"]


def test_a_file_whose_writing_fails_stays_as_it_was(tmp_path):
    target = tmp_path / "table.parquet"
    target.write_text("old")

    def fail() -> None:
        with replacing_file(target) as partial:
            partial.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["table.parquet"]


def test_a_reader_never_sees_half_a_file_while_two_threads_write_it(tmp_path):
    target, contents = tmp_path / "facts.json", {letter * 200_000 for letter in "ab"}
    write_atomically(target, "a" * 200_000)
    writers = [
        threading.Thread(target=lambda text=text: [write_atomically(target, text) for _ in range(20)]) for text in contents
    ]
    for writer in writers:
        writer.start()
    seen = {target.read_text()}
    while any(writer.is_alive() for writer in writers):
        seen.add(target.read_text())
    for writer in writers:
        writer.join()
    assert seen <= contents
    assert names(tmp_path) == ["facts.json"]


def test_a_folder_replaces_the_one_before_it(tmp_path):
    target = tmp_path / "checkpoint"
    for text in ("first", "second"):
        with publish_folder(target) as partial:
            (partial / text).write_text(text)
            assert not (target / text).exists()
    assert names(target) == ["second"]
    assert names(tmp_path) == ["checkpoint"]


def test_a_folder_whose_writing_fails_stays_as_it_was(tmp_path):
    target = tmp_path / "checkpoint"
    with publish_folder(target) as partial:
        (partial / "first").touch()

    def fail() -> None:
        with publish_folder(target) as partial:
            (partial / "half").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert names(target) == ["first"]
    assert names(tmp_path) == ["checkpoint"]


def test_what_killed_processes_left_is_replaced(tmp_path):
    target = tmp_path / "checkpoint"
    for left in (partial_folder(target), previous_folder(target)):
        left.mkdir()
        (left / "left").touch()
    with publish_folder(target) as partial:
        assert names(partial) == []
        (partial / "whole").touch()
    assert names(target) == ["whole"]
    assert names(tmp_path) == ["checkpoint"]


def test_of_several_writers_the_first_one_wins(tmp_path):
    target = tmp_path / "shared"

    def lose() -> None:
        with publish_folder(target, contested=True) as slower:
            (slower / "slower").touch()
            with publish_folder(target, contested=True) as quicker:
                (quicker / "quicker").touch()

    with pytest.raises(OSError):
        lose()
    assert names(target) == ["quicker"]
    assert names(tmp_path) == ["shared"]


def test_a_folder_that_holds_something_is_replaced_only_if_asked(tmp_path):
    folder, target = tmp_path / "new", tmp_path / "target"
    for made in (folder, target):
        made.mkdir()
        (made / made.name).touch()
    with pytest.raises(OSError):
        move_folder(folder, target, replace=False)
    assert names(tmp_path) == ["new", "target"]
    move_folder(folder, target)
    assert names(target) == ["new"]


def test_a_full_disk_is_recognized_in_the_cause_of_an_error():
    full = RuntimeError("the checkpoint cannot be written")
    full.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert is_disk_full(full)
    assert is_disk_full(RuntimeError("database or disk is full"))
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))


def test_an_error_that_is_its_own_cause_is_no_full_disk_and_does_not_hang():
    error = RuntimeError("the dashboard did not start")
    error.__cause__ = error
    assert not is_disk_full(error)


def test_a_path_in_the_working_directory_is_shown_as_users_type_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert short_path(str(tmp_path / "runs" / "photos")) == "runs/photos"
    assert [short_path(path) for path in ("runs", "/", str(tmp_path), "s3://bucket/runs")] == [
        "runs",
        "/",
        str(tmp_path),
        "s3://bucket/runs",
    ]
