"""Where an output is: a folder, or a URI with a folder of this machine to work in."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoslim.errors import RequestError, StorageError
from autoslim.storage.output_place import OutputPlace, local_folder


def test_a_path_is_the_folder_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert OutputPlace.parse(Path("runs/flowers")) == OutputPlace(tmp_path / "runs/flowers")


def test_a_uri_has_a_folder_in_the_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path))
    place, other = OutputPlace.parse("s3://bucket/runs/a/"), OutputPlace.parse("s3://bucket/runs/b")
    assert place.uri == "s3://bucket/runs/a"
    assert place.folder.parent == other.folder.parent == tmp_path / "runs"
    assert place.folder != other.folder
    assert not place.folder.exists()


def test_the_hub_is_no_place_for_an_output() -> None:
    with pytest.raises(StorageError, match=r"each file is a commit; allowed: a folder of this machine, s3://.*autoslim push"):
        OutputPlace.parse("hf://owner/name/runs")


def test_a_command_that_writes_to_this_machine_takes_no_uri() -> None:
    with pytest.raises(RequestError, match=r"--output is 's3://bucket/a'; allowed: a folder of this machine"):
        local_folder("s3://bucket/a", "--output")
    assert local_folder("runs/a", "--output") == Path("runs/a")
