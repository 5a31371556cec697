"""What a process that hangs leaves for the driver."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autoslim.errors import UnavailableError
from autoslim.storage.mirror import NO_MIRROR, Mirror
from autoslim.storage.uri import StorageUri
from workers.search.stall_note import StallNote

REASON = "stalled: no step, batch or other sign of life for 60.1 minutes (--stall-minutes 60)"


def sentence(note: StallNote) -> str:
    found = note.read()
    assert found is not None
    return found.sentence


def test_the_reason_is_read_by_the_driver_and_the_stacks_by_people(tmp_path: Path) -> None:
    trial = tmp_path / "trials" / "key"
    note = StallNote.of_trial(trial, NO_MIRROR)
    assert note.read() is None
    note.write(REASON)
    assert sentence(note) == f"{REASON}; the stacks of its threads are in trials/key/stalled/stacks.txt of the output"
    first, process, *stacks = (trial / "stalled" / "stacks.txt").read_text().splitlines()
    assert first == REASON
    assert process.startswith(f"process {os.getpid()}, ")
    assert any(f'File "{__file__}"' in place for place in stacks)
    note.delete()
    assert note.read() is None


def test_that_of_a_dense_model_is_beside_the_models_folder_which_is_there_only_when_it_is_finished(tmp_path: Path) -> None:
    model = tmp_path / "cache" / "base-1"
    note = StallNote.of_dense_model(model, NO_MIRROR)
    note.write(REASON)
    assert sentence(note) == f"{REASON}; the stacks of its threads are in cache/base-1.stalled/stacks.txt of the output"
    assert (tmp_path / "cache" / "base-1.stalled" / "stacks.txt").read_text().startswith(REASON)
    assert not model.exists()


def test_where_machines_share_no_folder_it_is_in_the_store(tmp_path: Path) -> None:
    store = StorageUri.parse((tmp_path / "store").as_uri())
    worker, driver = Mirror(tmp_path / "worker", store), Mirror(tmp_path / "driver", store)
    trial, seen = (StallNote.of_trial(mirror.root / "trials" / "key", mirror) for mirror in (worker, driver))
    assert seen.read() is None
    trial.write(REASON)
    assert sentence(seen) == f"{REASON}; the stacks of its threads are in trials/key/stalled.tar of the output"
    assert (tmp_path / "store" / "trials" / "key" / "stalled.tar").is_file()
    trial.delete()
    assert seen.read() is None
    dense, seen = (StallNote.of_dense_model(mirror.root / "cache" / "base-1", mirror) for mirror in (worker, driver))
    dense.write(REASON)
    assert sentence(seen) == f"{REASON}; the stacks of its threads are in cache/base-1.stalled.tar of the output"
    assert (tmp_path / "store" / "cache" / "base-1.stalled.tar").is_file()


def test_a_store_that_does_not_answer_leaves_rays_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(self: Mirror, folder: Path) -> None:
        raise UnavailableError("the store does not answer")

    monkeypatch.setattr(Mirror, "refresh", away)
    assert StallNote.of_trial(tmp_path, NO_MIRROR).read() is None
    assert "the store does not answer" in caplog.text
