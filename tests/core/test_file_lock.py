"""Files of locks are deleted where nobody has the lock, and a lock is of the file that is there."""

from __future__ import annotations

import fcntl
from pathlib import Path

import filelock
import pytest

from autoslim.core.file_lock import file_lock, remove_left_lock_files, remove_lock_file


def test_the_file_of_a_lock_that_nobody_has_is_deleted_with_what_lies_beside_it(tmp_path: Path) -> None:
    lock, beside, gone = (tmp_path / name for name in ("a.lock", "a.json", "a.txt"))
    for path in (lock, beside):
        path.touch()
    assert remove_lock_file(lock, beside, gone)
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_a_lock_that_somebody_has_stays(tmp_path: Path) -> None:
    lock, beside = tmp_path / "a.lock", tmp_path / "a.json"
    beside.touch()
    with file_lock(lock):
        assert not remove_lock_file(lock, beside)
        assert lock.exists() and beside.exists()
    assert remove_lock_file(lock, beside)


def test_who_opens_a_file_that_is_deleted_before_it_has_the_lock_locks_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, lock_file, deleted = tmp_path / "a.lock", fcntl.flock, list[Path]()

    def delete_first(descriptor: int, how: int) -> None:
        if not deleted:
            deleted.append(lock)
            lock.unlink()
        lock_file(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", delete_first)
    with file_lock(lock):
        assert deleted
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(lock).acquire(timeout=0)


def test_locks_of_what_is_gone_are_deleted_and_those_of_what_is_there_or_in_work_stay(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    for name in ("kept.lock", "gone.lock", ".lock", "lock"):
        (tmp_path / name).touch()
    with file_lock(tmp_path / "begun.lock"):
        remove_left_lock_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "begun.lock", "kept", "kept.lock", "lock"]
