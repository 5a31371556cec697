"""What a store's client is given from the environment."""

from __future__ import annotations

import pytest
from pyarrow import fs

from autoslim.errors import StorageError
from autoslim.storage import StorageUri
from autoslim.storage.file_systems import _connected, file_system


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The arguments that pyarrow's client gets."""
    given: dict[str, object] = {}
    monkeypatch.setattr(fs, "AzureFileSystem", lambda account, **options: given.update(options, account=account))
    for name in ("ACCOUNT_NAME", "ACCOUNT", "ACCOUNT_KEY", "KEY", "SAS_TOKEN", "SERVICE_ENDPOINT"):
        monkeypatch.delenv(f"AZURE_STORAGE_{name}", raising=False)
    _connected.cache_clear()
    return given


@pytest.mark.parametrize(
    ("endpoint", "blobs", "files", "scheme"),
    [
        ("https://photos.blob.core.chinacloudapi.cn/", ".blob.core.chinacloudapi.cn", ".dfs.core.chinacloudapi.cn", "https"),
        ("http://127.0.0.1:10000/photos", "127.0.0.1:10000", "127.0.0.1:10000", "http"),
    ],
)
def test_azures_address_is_that_of_az_storage(
    endpoint: str, blobs: str, files: str, scheme: str, azure: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "photos")
    monkeypatch.setenv("AZURE_STORAGE_SERVICE_ENDPOINT", endpoint)
    file_system(StorageUri.parse("az://container/x"))
    assert (azure["account"], azure["blob_storage_authority"], azure["dfs_storage_authority"]) == ("photos", blobs, files)
    assert azure["blob_storage_scheme"] == azure["dfs_storage_scheme"] == scheme


def test_without_an_address_azures_own_is_taken(azure: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "photos")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "canary")
    file_system(StorageUri.parse("az://container/x"))
    assert azure == {"account": "photos", "account_key": "canary", "sas_token": None}


def test_an_account_that_is_not_named_is_said(azure: dict[str, object]) -> None:
    with pytest.raises(StorageError, match="AZURE_STORAGE_ACCOUNT_NAME names; set this variable"):
        file_system(StorageUri.parse("az://container/x"))
