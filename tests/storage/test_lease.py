"""One process at a time has a lease; a dead one's is taken over."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoslim.core.pid_namespace import pid_namespace
from autoslim.errors import OutputError
from autoslim.storage.lease import StorageLease
from autoslim.storage.objects import delete_object, objects_below, write_object
from autoslim.storage.uri import StorageUri


@pytest.fixture
def folder(tmp_path: Path) -> StorageUri:
    return StorageUri.parse((tmp_path / "leases").as_uri())


def test_the_second_one_is_refused_until_the_first_releases(folder: StorageUri) -> None:
    first, second = StorageLease(folder), StorageLease(folder)
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()
    assert objects_below(folder) == []


def test_waiting_for_an_owner_that_is_alive_is_an_error(folder: StorageUri) -> None:
    owner = StorageLease(folder, heartbeat=0.02)
    assert owner.acquire()
    told: list[str] = []
    with pytest.raises(OutputError, match="busy there"):
        StorageLease(folder, heartbeat=0.1).wait("busy there", tell=told.append)
    assert len(told) == 1
    owner.check()
    owner.release()


def test_the_claim_of_a_process_of_this_machine_that_has_ended_is_dead_at_once(folder: StorageUri) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write_object(folder / "killed", f"{pid_namespace()} {ended.pid} 7")
    lease = StorageLease(folder)
    assert lease.acquire()
    lease.release()


def test_the_claim_of_another_machine_is_dead_when_it_is_old(folder: StorageUri) -> None:
    write_object(folder / "far-away", f"another-boot/1 {os.getpid()} 7")
    lease = StorageLease(folder, dead_after=60)
    assert not lease.acquire()
    old = time.time() - 61
    os.utime(Path(folder.path) / "far-away", (old, old))
    assert lease.acquire()
    lease.release()


def test_an_owner_whose_claim_was_taken_is_told_and_makes_no_new_one(folder: StorageUri) -> None:
    owner = StorageLease(folder, heartbeat=0.02)
    assert owner.acquire()
    delete_object(folder / objects_below(folder)[0].base_name)
    with pytest.raises(OutputError, match="has taken over"):
        owner.check()
    time.sleep(0.1)
    assert objects_below(folder) == []
    owner.release()


def test_an_owner_that_was_not_heard_of_for_long_keeps_what_nobody_has_taken(folder: StorageUri) -> None:
    owner = StorageLease(folder, dead_after=0.0)
    assert owner.acquire()
    owner.check()
    owner.release()


def test_an_owner_that_was_not_heard_of_for_long_gives_way_to_one_that_has_taken_over(folder: StorageUri) -> None:
    late = StorageLease(folder, dead_after=0.0)
    assert late.acquire()
    # Its claim was found old and deleted while a heartbeat of it was on its way, which has made the claim again.
    write_object(folder / "other", f"another-boot/1 {os.getpid()} 0")
    newer = time.time() + 1
    os.utime(Path(folder.path) / "other", (newer, newer))
    with pytest.raises(OutputError, match="has taken over"):
        late.check()
    assert [info.base_name for info in objects_below(folder)] == ["other"]
    late.release()
