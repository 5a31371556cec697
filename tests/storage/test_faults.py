"""Errors of stores' clients, as they word them, become errors that say what to do."""

from __future__ import annotations

import pytest

from autoslim.errors import AutoslimError, StorageError, UnavailableError
from autoslim.storage import StorageUri
from autoslim.storage.faults import SECRETS, explained

_S3 = "When reading information for key 'connect/404.parquet' in bucket 'photos': AWS Error "


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (OSError(_S3 + "ACCESS_DENIED during HeadObject operation: No response body."), StorageError, "permission denied"),
        (OSError(_S3 + "UNKNOWN (HTTP status 403) during HeadObject operation"), StorageError, "permission denied"),
        (OSError(_S3 + "INVALID_ACCESS_KEY_ID: The AWS Access Key Id you provided does not exist"), StorageError, "AWS_PROFILE"),
        (OSError(_S3 + "NO_SUCH_BUCKET during ListObjectsV2 operation"), StorageError, "check the bucket photos and the path"),
        (FileNotFoundError("photos/connect/404.parquet"), StorageError, "it does not exist"),
        (OSError(_S3 + "NETWORK_CONNECTION during HeadObject operation: curlCode: 7"), UnavailableError, "AWS_ENDPOINT_URL"),
        (OSError(_S3 + "SLOW_DOWN during PutObject operation"), UnavailableError, "run the same command again"),
        (TimeoutError("timed out"), UnavailableError, "does not answer"),
        (OSError(28, "No space left on device"), StorageError, "the disk is full"),
        (ValueError("something else"), StorageError, "ValueError: something else"),
    ],
)
def test_what_was_wrong_and_what_to_do(error: Exception, kind: type[AutoslimError], said: str) -> None:
    uri = StorageUri.parse("s3://photos/connect/404.parquet")
    with pytest.raises(kind) as found, explained(uri, "read"):
        raise error
    assert str(found.value).startswith("s3://photos/connect/404.parquet cannot be read: ")
    assert said in str(found.value)


@pytest.mark.parametrize("name", SECRETS)
def test_no_credential_is_repeated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "canary-value")
    with pytest.raises(StorageError) as found, explained(StorageUri.parse("az://container/x"), "written"):
        raise OSError("PUT https://account/x?sig=canary-value: bad, and https://me:canary-other@host")
    assert "canary" not in str(found.value)


def test_our_own_errors_stay_as_they_are() -> None:
    with pytest.raises(UnavailableError, match=r"^later$"), explained(StorageUri.parse("s3://photos"), "read"):
        raise UnavailableError("later")
