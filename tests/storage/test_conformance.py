"""What every store has to do, by whichever client it is reached.

`AUTOSLIM_TEST_STORE=gs://BUCKET/PATH pytest tests/storage/test_conformance.py` tries another one, with the credentials of the environment:
a store of yours, or a stand-in such as gcp-storage-emulator (`CLOUD_STORAGE_EMULATOR_ENDPOINT`; with a server of threads, since it waits
for a client that does not read to the end) or Azurite (`AZURE_STORAGE_SERVICE_ENDPOINT`). What it writes there it deletes again.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.marks import CI_ONLY

from autoslim.errors import OutputError, StorageError
from autoslim.storage import StorageUri, fetch, is_uri, look, open_file, pieces, stat, upload_file, upload_folder
from autoslim.storage.archive import pack_folder, unpack_folder
from autoslim.storage.lease import StorageLease
from autoslim.storage.objects import delete_object, delete_objects, objects_below, read_object, replacing_object, write_object

LARGE = bytes(range(256)) * 50_000
"""More than one part of an upload."""

GIVEN = os.environ.get("AUTOSLIM_TEST_STORE", "")
IS_GIVEN = pytest.mark.skipif(not is_uri(GIVEN), reason="AUTOSLIM_TEST_STORE names no other store to try")


@pytest.fixture(params=["folder", pytest.param("S3", marks=CI_ONLY), pytest.param("given", marks=IS_GIVEN)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StorageUri]:
    """A place where nothing is yet."""
    if request.param == "folder":
        yield StorageUri.parse((tmp_path / "store").as_uri())
    elif request.param == "S3":
        yield StorageUri.parse(f"s3://{request.getfixturevalue('bucket')}/runs")
    else:
        uri = StorageUri.parse(GIVEN) / f"autoslim-{uuid.uuid4().hex}"
        yield uri
        delete_objects(uri)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for name, content in {"config.json": b"{}", "deep/large.bin": LARGE, "a b+ü.bin": b"odd"}.items():
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_bytes(content)
    return tmp_path / "model"


def test_a_folder_goes_there_and_comes_back(place: StorageUri, model: Path, tmp_path: Path) -> None:
    uri = place / "model"
    upload_folder(model, uri, last="config.json")
    listing = look(uri)
    assert [(file.name, file.size) for file in listing.files] == [
        ("a b+ü.bin", 3),
        ("config.json", 2),
        ("deep/large.bin", len(LARGE)),
    ]
    assert look(uri).digest == listing.digest
    found = fetch(listing, tmp_path / "cache")
    assert {path.relative_to(found).as_posix(): path.read_bytes() for path in found.rglob("*") if path.is_file()} == {
        path.relative_to(model).as_posix(): path.read_bytes() for path in model.rglob("*") if path.is_file()
    }
    with open_file(uri / "deep/large.bin") as file:
        file.seek(257)
        assert file.read(2) == b"\1\2"
    assert stat(uri) is None
    (single,) = look(uri / "config.json").files
    assert (single.name, single.size) == ("config.json", 2)


def test_a_file_of_other_content_has_another_digest(place: StorageUri, model: Path) -> None:
    uri = place / "config.json"
    upload_file(model / "config.json", uri)
    before = look(uri).digest
    (model / "config.json").write_text('{"longer": 1}')
    upload_file(model / "config.json", uri)
    assert look(uri).digest != before


def test_an_archive_goes_there_and_comes_back(place: StorageUri, model: Path, tmp_path: Path) -> None:
    uri = place / "trials/checkpoint.tar"
    assert not unpack_folder(uri, tmp_path / "none")
    pack_folder(model, uri)
    assert unpack_folder(uri, tmp_path / "back")
    assert (tmp_path / "back/deep/large.bin").read_bytes() == LARGE


def test_small_objects_are_written_read_listed_and_deleted(place: StorageUri) -> None:
    uri = place / "state/job.json"
    assert read_object(uri) is None
    assert objects_below(uri / "nowhere") == []
    delete_object(uri)
    write_object(uri, "one")
    write_object(uri, "two")
    assert read_object(uri) == b"two"
    write_object(place / "state/deep/other", "x")
    assert [info.base_name for info in objects_below(place / "state")] == ["job.json"]
    assert len(objects_below(place / "state", recursive=True)) == 2
    delete_objects(place / "state")
    assert objects_below(place / "state", recursive=True) == []


def test_a_large_folder_goes_there_in_pieces_and_comes_back(
    place: StorageUri, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 3_000_000)
    uri = place / "cache/images.tar"
    for _ in range(2):
        pack_folder(model, uri)
        (model / "config.json").write_text('{"of": "another version"}')
    assert sorted(info.size for info in objects_below(place, recursive=True))[-4:] == [3_000_000] * 4
    # Of the first version nothing is left.
    assert len(objects_below(place, recursive=True)) == 1 + 5
    assert unpack_folder(uri, tmp_path / "back")
    assert (tmp_path / "back/deep/large.bin").read_bytes() == LARGE
    assert (tmp_path / "back/config.json").read_text() == '{"of": "another version"}'
    pieces.delete_pieces(uri)
    assert objects_below(place, recursive=True) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_is_there_stays_where_an_upload_is_interrupted(place: StorageUri, error: type[BaseException]) -> None:
    uri = place / "state/job.json"
    write_object(uri, "before")
    with pytest.raises(error), replacing_object(uri) as stream:
        stream.write(LARGE)
        raise error
    del stream
    gc.collect()
    assert read_object(uri) == b"before"
    assert [info.base_name for info in objects_below(place, recursive=True)] == ["job.json"]
    write_object(uri, "after")
    assert read_object(uri) == b"after"


_HALF = """
import sys, time
from autoslim.storage import StorageUri
from autoslim.storage.objects import replacing_object
with replacing_object(StorageUri.parse(sys.argv[1])) as stream:
    stream.write(bytes(12_000_000))
    print("half", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_what_is_there_stays_where_the_process_ends(place: StorageUri, by: signal.Signals) -> None:
    uri = place / "state/job.json"
    write_object(uri, "before")
    with subprocess.Popen([sys.executable, "-c", _HALF, str(uri)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.send_signal(by)
    assert process.returncode == -by
    assert read_object(uri) == b"before"


def test_nothing_cut_off_is_found(place: StorageUri) -> None:
    uri = place / "state/job.json"
    with pytest.raises(RuntimeError), replacing_object(uri) as stream:
        stream.write(b"half")
        raise RuntimeError
    assert read_object(uri) is None


def test_one_process_at_a_time_has_a_lease(place: StorageUri) -> None:
    first, second = StorageLease(place / ".leases/driver"), StorageLease(place / ".leases/driver")
    assert first.acquire()
    assert not second.acquire()
    first.check()
    delete_objects(place / ".leases/driver")
    with pytest.raises(OutputError, match="has taken over"):
        first.check()
    first.release()
    assert second.acquire()
    second.release()
    assert objects_below(place / ".leases/driver") == []


def test_what_is_not_there_is_said(place: StorageUri) -> None:
    with pytest.raises(StorageError, match=r"nowhere cannot be (listed|read): it does not exist"):
        look(place / "nowhere")
