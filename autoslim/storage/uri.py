"""`StorageUri`: where a file or folder lies in an object store, as users write it; and what is refused in one.

Credentials are no part of it: a URI stands in job files, in the store, in logs and on command lines.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from urllib.parse import quote, unquote

from autoslim.core.urls import hide_password
from autoslim.errors import StorageError


class Scheme(enum.StrEnum):
    """The stores that are read and written, by the scheme of their URIs."""

    S3 = "s3"
    GOOGLE = "gs"
    AZURE = "az"
    HUGGING_FACE = "hf"
    FILE = "file"


FORMS = {
    Scheme.S3: "s3://BUCKET/PATH",
    Scheme.GOOGLE: "gs://BUCKET/PATH",
    Scheme.AZURE: "az://CONTAINER/PATH",
    Scheme.HUGGING_FACE: "hf://datasets/OWNER/NAME/PATH",
    Scheme.FILE: "file:///PATH",
}
"""What is allowed, for people."""

ALLOWED = ", ".join(FORMS.values())
WRITTEN_FORMS = ", ".join(form for scheme, form in FORMS.items() if scheme is not Scheme.HUGGING_FACE)
"""Of the stores that files are written to one by one."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""A colon or an @ is what stands between a name, a password and a host."""

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\\]")


def is_uri(text: str) -> bool:
    """Whether `text` is a URI and no path, of whichever scheme: `StorageUri.parse` says whether it is one that is allowed."""
    return _SCHEME.match(text) is not None


@dataclasses.dataclass(frozen=True)
class StorageUri:
    """`bucket` is a bucket or container, of `hf://` the first part of the path, and empty for `file://`. `key` is the path in it, without
    a slash at its ends. `str()` of it is a URI that `parse` reads again.
    """

    scheme: Scheme
    bucket: str
    key: str

    @classmethod
    def parse(cls, text: str) -> StorageUri:
        """Reads a URI. Of `file://`, percent signs are escapes; names of objects are taken as they are.

        Raises:
            StorageError: for another scheme, a name or a password in it, a query, or a path that could leave a folder.
        """
        found = _SCHEME.match(text)
        scheme = found[1].lower() if found is not None else ""
        if found is None or scheme not in list(Scheme):
            raise StorageError(f"{hide_password(text)[:200]!r} is no URI of a store; allowed: {ALLOWED}")
        kind = Scheme(scheme)
        bucket, _, key = text[found.end() :].partition("/")
        # Nothing of what might be a secret is quoted.
        if "?" in text or "#" in text:
            raise StorageError(f"a {kind}:// URI has a query or a fragment; allowed: {FORMS[kind]}; {_WHERE_CREDENTIALS}")
        if kind is Scheme.FILE:
            if bucket not in ("", "localhost"):
                raise StorageError(f"a file:// URI names a host; allowed: {FORMS[kind]}, with three slashes")
            bucket, key = "", unquote(key)
        elif not _BUCKET.fullmatch(bucket):
            raise StorageError(f"a {kind}:// URI has no plain name before its path; allowed: {FORMS[kind]}; {_WHERE_CREDENTIALS}")
        key = key.rstrip("/")
        if key:
            check_relative(key, text)
        return cls(kind, bucket, key)

    @property
    def path(self) -> str:
        """As the file systems of pyarrow take it."""
        return f"/{self.key}" if self.scheme is Scheme.FILE else f"{self.bucket}/{self.key}".rstrip("/")

    @property
    def name(self) -> str:
        """The last part of the path, as of a file."""
        return self.path.rpartition("/")[2]

    @property
    def holder(self) -> str:
        """What has to be there for the path to be, in words."""
        return {
            Scheme.AZURE: f"container {self.bucket}",
            Scheme.HUGGING_FACE: "repository",
            Scheme.FILE: "folder",
        }.get(self.scheme, f"bucket {self.bucket}")

    def __truediv__(self, name: str) -> StorageUri:
        """The file or folder `name` (parts with slashes between them) in this folder. Raises StorageError for a name that leaves it."""
        check_relative(name, str(self))
        return dataclasses.replace(self, key=f"{self.key}/{name}".lstrip("/"))

    def __str__(self) -> str:
        key = quote(self.key) if self.scheme is Scheme.FILE else self.key
        return f"{self.scheme}://{self.bucket}/{key}".rstrip("/") if self.bucket else f"{self.scheme}:///{key}"


_WHERE_CREDENTIALS = "credentials are read from the environment, such as AWS_PROFILE, and stand in no URI"


def check_relative(name: str, where: str) -> None:
    """Raises StorageError for a name of a file that could lead out of the folder it is written to."""
    if _UNPRINTABLE.search(name) or any(part in ("", ".", "..") for part in name.split("/")):
        raise StorageError(
            f"{hide_password(where)} has the name {name[:200]!r}; allowed: parts between single slashes, none of them . or .."
        )
