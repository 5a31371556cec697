"""One file's download: resumed after a lost connection, never larger than announced, checked by its digest."""

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
from autoslim.client.retry import Backoff

# Bytes per read when a file is hashed.
_BLOCK = 2**20


class Download:
    """Writes `file`, which may have the first part already. `on_bytes` is called with every change of the size.

    The client sends `call`, then calls `start`, `write` for each chunk, and `finish`; after an error `retry_delay`, and starts again.
    """

    def __init__(
        self, job_id: str, artifact: Artifact, file: Path, *, on_bytes: Callable[[int], None] = lambda size: None
    ) -> None:
        self._job_id, self._artifact, self._file, self._on_bytes = job_id, artifact, file, on_bytes
        self._backoff = Backoff()
        self._size = self._requested_from = 0
        self._digest = hashlib.sha256()
        self._open: BinaryIO | None = None

    @property
    def complete(self) -> bool:
        """Whether the file exists with the announced size and digest."""
        if not self._file.is_file() or self._file.stat().st_size != self._artifact.bytes:
            return False
        return digest_of(self._file) == self._artifact.sha256

    def call(self) -> Call[None]:
        self._size = min(self._file.stat().st_size, self._artifact.bytes) if self._file.exists() else 0
        if self._size == self._artifact.bytes:
            # The size is right and the digest was wrong: there is nothing to resume.
            self._size = 0
        self._requested_from = self._size
        # Ranges and digests are of the uncompressed bytes.
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if self._size:
            headers["Range"] = f"bytes={self._size}-"
        path = calls.artifact_path(self._job_id, self._artifact.name)
        return Call(method="GET", path=path, read=lambda response: None, headers=headers)

    def start(self, response: httpx.Response) -> None:
        """Opens the file at the position where the response starts: a 200 has the whole file, whatever range was requested."""
        if self._size and not response.headers.get("Content-Range", "").startswith(f"bytes {self._size}-"):
            self._size = 0
        with self._on_disk():
            self._digest = _digest_of(self._file, self._size)
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._open = self._file.open("r+b" if self._size else "wb")
            self._open.truncate(self._size)
            self._open.seek(self._size)
        self._on_bytes(self._size)

    def write(self, chunk: bytes) -> None:
        assert self._open is not None
        if self._size + len(chunk) > self._artifact.bytes:
            raise PullError(f"{self._artifact.name} is longer than the {self._artifact.bytes} bytes that were announced")
        with self._on_disk():
            self._open.write(chunk)
        self._digest.update(chunk)
        self._size += len(chunk)
        self._on_bytes(len(chunk))

    def finish(self) -> None:
        """Checks size and digest.

        Raises:
            PullError: when the digest differs; the file is deleted, so that the next try starts from the beginning.
        """
        self.close()
        if self._size < self._artifact.bytes:
            raise httpx.RemoteProtocolError(f"{self._artifact.name} ended after {self._size} of {self._artifact.bytes} bytes")
        if self._digest.hexdigest() != self._artifact.sha256:
            self._file.unlink(missing_ok=True)
            raise PullError(f"{self._artifact.name} arrived damaged: its SHA-256 is not {self._artifact.sha256}")

    def retry_delay(self, error: httpx.TransportError | ServiceError) -> float:
        """Seconds to wait before the next `call`; what has arrived is kept.

        Raises:
            ServiceError: where no try is left, or another one would not help.
        """
        self.close()
        self._on_bytes(-self._size)
        if self._size > self._requested_from:
            # Bytes have arrived: only tries without progress are counted.
            self._backoff = Backoff()
        return self._backoff.next_delay(error)

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
            raise PullError(f"{self._file} cannot be written: {error.strerror}; what has arrived is kept") from error


def digest_of(file: Path) -> str:
    return _digest_of(file).hexdigest()


def _digest_of(file: Path, size: int | None = None) -> hashlib._Hash:
    """SHA-256 of the first `size` bytes, or of the whole file."""
    digest = hashlib.sha256()
    left = size if size is not None else (file.stat().st_size if file.exists() else 0)
    if left:
        with file.open("rb") as stream:
            while left and (block := stream.read(min(left, _BLOCK))):
                digest.update(block)
                left -= len(block)
    return digest
