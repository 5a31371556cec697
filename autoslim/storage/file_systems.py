"""The pyarrow file system of a URI. Endpoints and credentials come from the environment alone; see docs/storage.md for the variables."""

from __future__ import annotations

import datetime
import functools
import os
from typing import Any
from urllib.parse import urlsplit

from autoslim.errors import StorageError
from autoslim.storage.uri import ALLOWED, Scheme, StorageUri

_CONNECT_SECONDS, _REQUEST_SECONDS = 10, 60
"""Until a server that does not answer counts as out of reach; the default of S3's client is forever."""

_ATTEMPTS = 4
"""Of a request that a server was too busy for, or that was lost; with the client's pauses, seconds."""


def file_system(uri: StorageUri) -> Any:
    """A `pyarrow.fs.FileSystem` that reads and writes `uri.path`.

    Raises:
        StorageError: for a store that this installation cannot read, or settings of the environment that are missing.
    """
    # By process: clients with threads do not survive a fork.
    return _connected(uri.scheme, uri.bucket if uri.scheme is Scheme.S3 else "", os.getpid())


@functools.lru_cache(maxsize=16)
def _connected(scheme: Scheme, bucket: str, _: int) -> Any:
    # Here, because importing pyarrow takes longer than all of `autoslim.config`.
    from pyarrow import fs

    match scheme:
        case Scheme.S3:
            return _s3(fs, bucket)
        case Scheme.GOOGLE:
            return _google(fs)
        case Scheme.AZURE:
            return _azure(fs)
        case Scheme.HUGGING_FACE:
            from huggingface_hub import HfFileSystem

            # The client itself reads the variable once, when it is imported.
            return fs.PyFileSystem(fs.FSSpecHandler(HfFileSystem(endpoint=os.environ.get("HF_ENDPOINT"))))
        case Scheme.FILE:
            return fs.LocalFileSystem()


def _s3(fs: Any, bucket: str) -> Any:
    _check_has(fs, "S3FileSystem", Scheme.S3)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint is None and region is None:
        # Of Amazon's own servers each region has one, and answers for its own buckets only.
        region = fs.resolve_s3_region(bucket)
    address = None if endpoint is None else urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
    return fs.S3FileSystem(
        region=region,
        endpoint_override=None if address is None else address.netloc,
        scheme="https" if address is None else address.scheme,
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_REQUEST_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
    )


def _google(fs: Any) -> Any:
    _check_has(fs, "GcsFileSystem", Scheme.GOOGLE)
    emulator, options = os.environ.get("CLOUD_STORAGE_EMULATOR_ENDPOINT"), dict[str, Any]()
    if emulator is not None:
        # It knows no credentials, and pyarrow would look for some, on the network at last.
        address = urlsplit(emulator)
        options = {"anonymous": True, "endpoint_override": address.netloc, "scheme": address.scheme}
    return fs.GcsFileSystem(retry_time_limit=datetime.timedelta(seconds=_REQUEST_SECONDS), **options)


def _azure(fs: Any) -> Any:
    _check_has(fs, "AzureFileSystem", Scheme.AZURE)
    account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME") or os.environ.get("AZURE_STORAGE_ACCOUNT")
    if not account:
        raise StorageError("an az:// URI is read with the account that AZURE_STORAGE_ACCOUNT_NAME names; set this variable")
    endpoint = os.environ.get("AZURE_STORAGE_SERVICE_ENDPOINT")
    # Without a key or a token, Azure's own chain of credentials: a managed identity, or `az login`.
    return fs.AzureFileSystem(
        account,
        **({} if endpoint is None else _azure_addresses(endpoint, account)),
        account_key=os.environ.get("AZURE_STORAGE_ACCOUNT_KEY") or os.environ.get("AZURE_STORAGE_KEY"),
        sas_token=os.environ.get("AZURE_STORAGE_SAS_TOKEN"),
    )


def _azure_addresses(endpoint: str, account: str) -> dict[str, str]:
    """Of another cloud than the public one, or of a server that speaks Azure's protocol, as `az storage` takes its address:
    `https://ACCOUNT.blob.core.chinacloudapi.cn`, or with the account behind the host."""
    address = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
    # To pyarrow, what begins with a dot has the account in front of it, and another host the account behind it.
    blobs = address.netloc.removeprefix(account) if address.netloc.startswith(f"{account}.") else address.netloc
    # The second protocol, for accounts with a hierarchy of folders.
    files = blobs.replace(".blob.", ".dfs.")
    return {
        "blob_storage_authority": blobs,
        "dfs_storage_authority": files,
        "blob_storage_scheme": address.scheme,
        "dfs_storage_scheme": address.scheme,
    }


def _check_has(fs: Any, name: str, scheme: Scheme) -> None:
    """pyarrow raises ImportError for a file system that it was built without."""
    try:
        getattr(fs, name)
    except (ImportError, AttributeError) as error:
        raise StorageError(
            f"the installed pyarrow reads no {scheme}:// URIs ({error}); install its wheel with `pip install -U pyarrow`, or give one of: "
            f"{ALLOWED}"
        ) from error
