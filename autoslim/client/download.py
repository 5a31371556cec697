"""One file on its way: gone on with after a lost connection, never larger than announced, checked by its digest."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import httpx

from autoslim.client import calls
from autoslim.client.calls import Call
from autoslim.client.errors import PullError, ServiceError
from autoslim.client.replies import Artifact
from autoslim.client.retry import Attempts

_BLOCK = 2**20


class Download:
    """Writes `file`, which may hold the first part already. `call`, `begin`, `write`..., `end`; after an error `lost`, and again."""

    def __init__(self, job_id: str, artifact: Artifact, file: Path, *, grown: Callable[[int], None] = lambda size: None) -> None:
        self._job_id, self._artifact, self._file, self._grown = job_id, artifact, file, grown
        self._attempts = Attempts()
        self._have = self._asked_from = 0
        self._digest = hashlib.sha256()
        self._open: BinaryIO | None = None

    @property
    def complete(self) -> bool:
        """Whether the file lies there already, as it should be."""
        if not self._file.is_file() or self._file.stat().st_size != self._artifact.bytes:
            return False
        return digest_of(self._file) == self._artifact.sha256

    def call(self) -> Call[None]:
        self._have = min(self._file.stat().st_size, self._artifact.bytes) if self._file.exists() else 0
        if self._have == self._artifact.bytes:
            # A file of the right size and the wrong content is of no use.
            self._have = 0
        self._asked_from = self._have
        # Ranges are of the bytes as they lie there; a compressed answer would have others.
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if self._have:
            headers["Range"] = f"bytes={self._have}-"
        path = calls.artifact_path(self._job_id, self._artifact.name)
        return Call(method="GET", path=path, read=lambda response: None, headers=headers)

    def begin(self, response: httpx.Response) -> None:
        """A service that does not go on where it was asked to sends the whole file."""
        if self._have and not response.headers.get("Content-Range", "").startswith(f"bytes {self._have}-"):
            self._have = 0
        with self._on_disk():
            self._digest = _digest_of(self._file, self._have)
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._open = self._file.open("r+b" if self._have else "wb")
            self._open.truncate(self._have)
            self._open.seek(self._have)
        self._grown(self._have)

    def write(self, chunk: bytes) -> None:
        assert self._open is not None
        if self._have + len(chunk) > self._artifact.bytes:
            raise PullError(f"{self._artifact.name} is longer than the {self._artifact.bytes} bytes that were announced")
        with self._on_disk():
            self._open.write(chunk)
        self._digest.update(chunk)
        self._have += len(chunk)
        self._grown(len(chunk))

    def end(self) -> None:
        """Raises PullError when the file is not the one that was announced; it is deleted, so that the next try begins anew."""
        self.close()
        if self._have < self._artifact.bytes:
            raise httpx.RemoteProtocolError(f"{self._artifact.name} ended after {self._have} of {self._artifact.bytes} bytes")
        if self._digest.hexdigest() != self._artifact.sha256:
            self._file.unlink(missing_ok=True)
            raise PullError(f"{self._artifact.name} arrived damaged: its SHA-256 is not {self._artifact.sha256}")

    def lost(self, error: httpx.TransportError | ServiceError) -> float:
        """Seconds to wait before the next `call`; raises when it is to be given up. What has arrived is kept."""
        self.close()
        self._grown(-self._have)
        if self._have > self._asked_from:
            # It came further; only tries that bring nothing are counted.
            self._attempts = Attempts()
        return self._attempts.after(error)

    def close(self) -> None:
        if self._open is not None:
            with self._on_disk(), self._open as file:
                self._open = None
                file.flush()
                os.fsync(file.fileno())

    @contextlib.contextmanager
    def _on_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PullError(f"{self._file} cannot be written: {error.strerror}; what has come is kept") from error


def digest_of(file: Path) -> str:
    return _digest_of(file).hexdigest()


def _digest_of(file: Path, size: int | None = None) -> hashlib._Hash:
    """SHA-256 of the first `size` bytes, or of all."""
    digest = hashlib.sha256()
    left = size if size is not None else (file.stat().st_size if file.exists() else 0)
    if left:
        with file.open("rb") as stream:
            while left and (block := stream.read(min(left, _BLOCK))):
                digest.update(block)
                left -= len(block)
    return digest
