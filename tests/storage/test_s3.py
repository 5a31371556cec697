"""The same against an S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.databases import free_port
from helpers.marks import CI_ONLY
from helpers.s3_server import SECRET, send

from autoslim.errors import StorageError, UnavailableError
from autoslim.storage import StorageUri, fetch, file_systems, look, open_file, stat, upload_folder

pytestmark = CI_ONLY


def test_a_folder_goes_there_and_comes_back(bucket: str, tmp_path: Path) -> None:
    large = bytes(range(256)) * 50_000
    for name, content in {"config.json": b"{}", "deep/large.bin": large, "a b+ü.bin": b"odd"}.items():
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_bytes(content)
    uri = StorageUri.parse(f"s3://{bucket}/runs/model")
    upload_folder(tmp_path / "model", uri, last="config.json")
    listing = look(uri)
    assert [(file.name, file.size) for file in listing.files] == [
        ("a b+ü.bin", 3),
        ("config.json", 2),
        ("deep/large.bin", len(large)),
    ]
    assert look(uri).digest == listing.digest
    found = fetch(listing, tmp_path / "cache")
    assert (found / "deep/large.bin").read_bytes() == large
    with open_file(uri / "deep/large.bin") as file:
        file.seek(257)
        assert file.read(2) == b"\1\2"
    assert stat(uri) is None
    assert stat(uri / "config.json") is not None
    assert {file.name for file in look(StorageUri.parse(f"s3://{bucket}")).files} == {
        f"runs/model/{file.name}" for file in listing.files
    }


def test_what_is_not_there_is_said(bucket: str) -> None:
    with pytest.raises(StorageError, match=rf"^s3://{bucket}/nowhere cannot be listed: it does not exist"):
        look(StorageUri.parse(f"s3://{bucket}/nowhere"))
    with pytest.raises(StorageError, match=r"^s3://no-such-bucket-here/x cannot be listed: it does not exist"):
        look(StorageUri.parse("s3://no-such-bucket-here/x"))


def test_credentials_that_are_not_allowed_are_said_and_not_repeated(bucket: str, s3_endpoint: str) -> None:
    # From now on the server looks at them, and it knows none.
    send("POST", f"{s3_endpoint}/moto-api/reset-auth", b"0")
    try:
        with pytest.raises(StorageError, match="permission denied") as found:
            look(StorageUri.parse(f"s3://{bucket}/x"))
    finally:
        send("POST", f"{s3_endpoint}/moto-api/reset-auth", b"inf")
    assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in str(found.value)
    assert SECRET not in str(found.value)


def test_a_server_that_does_not_answer_is_said(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(file_systems, "_ATTEMPTS", 1)
    with pytest.raises(UnavailableError, match=r"the store does not answer .*check the network and AWS_ENDPOINT_URL"):
        look(StorageUri.parse("s3://of-another-server/x"))
