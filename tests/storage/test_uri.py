"""URIs of object stores: what is read, and what is refused without being repeated."""

from __future__ import annotations

import pytest

from autoslim.errors import StorageError
from autoslim.storage import StorageUri, is_uri


@pytest.mark.parametrize(
    ("text", "path", "again"),
    [
        ("s3://photos/flowers/train", "photos/flowers/train", "s3://photos/flowers/train"),
        ("S3://photos/flowers/", "photos/flowers", "s3://photos/flowers"),
        ("s3://photos", "photos", "s3://photos"),
        ("gs://photos/a b%20c.parquet", "photos/a b%20c.parquet", "gs://photos/a b%20c.parquet"),
        ("az://container/x.parquet", "container/x.parquet", "az://container/x.parquet"),
        ("hf://datasets/owner/name@main/data", "datasets/owner/name@main/data", "hf://datasets/owner/name@main/data"),
        ("file:///home/me/a%20b", "/home/me/a b", "file:///home/me/a%20b"),
        ("file://localhost/x", "/x", "file:///x"),
    ],
)
def test_a_uri_is_a_path_of_its_file_system_and_can_be_written_again(text: str, path: str, again: str) -> None:
    uri = StorageUri.parse(text)
    assert (uri.path, str(uri)) == (path, again)
    assert StorageUri.parse(str(uri)) == uri


@pytest.mark.parametrize("text", ["./flowers", "/data/s3:/x", "digits", "hf:owner/name", "C:/flowers", "train-{0..9}.tar"])
def test_paths_and_names_are_no_uris(text: str) -> None:
    assert not is_uri(text)


@pytest.mark.parametrize(
    "text",
    [
        "s3://AKIAKEY:canary@photos/x",
        "s3://AKIAKEY:can/ary@photos/x",
        "s3://canary@photos/x",
        "s3://photos/x?secret_key=canary",
        "s3://photos/x#canary",
        "az://account:canary@container/x",
        "file://canary/x",
        "https://me:canary@host/x.parquet",
    ],
)
def test_credentials_and_other_schemes_are_refused_and_not_repeated(text: str) -> None:
    assert is_uri(text)
    with pytest.raises(StorageError) as found:
        StorageUri.parse(text)
    assert "allowed: " in str(found.value)
    assert not any(secret in str(found.value) for secret in ("canary", "can/ary", "AKIAKEY"))


@pytest.mark.parametrize("name", ["../other", "a/../../other", "", "a//b", "a\\b", "a\0b", "./a", "."])
def test_a_name_that_leaves_its_folder_is_refused(name: str) -> None:
    with pytest.raises(StorageError, match="allowed: parts between single slashes"):
        StorageUri.parse("s3://photos/flowers") / name


def test_a_file_of_a_folder_and_of_a_bucket() -> None:
    assert str(StorageUri.parse("s3://photos/flowers") / "train/0.png") == "s3://photos/flowers/train/0.png"
    assert str(StorageUri.parse("s3://photos") / "0.png") == "s3://photos/0.png"
    assert StorageUri.parse("s3://photos/flowers").name == "flowers"
