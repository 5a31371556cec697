"""What is particular to an S3 server; `test_conformance` has the rest."""

from __future__ import annotations

import pytest
from helpers.databases import free_port
from helpers.marks import CI_ONLY
from helpers.s3_server import SECRET, send

from autoslim.errors import StorageError, UnavailableError
from autoslim.storage import StorageUri, file_systems, look
from autoslim.storage.objects import write_object

pytestmark = CI_ONLY


def test_a_bucket_is_a_folder(bucket: str) -> None:
    write_object(StorageUri.parse(f"s3://{bucket}/runs/model/config.json"), "{}")
    assert [file.name for file in look(StorageUri.parse(f"s3://{bucket}")).files] == ["runs/model/config.json"]


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
