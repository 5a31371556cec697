"""Content that is too large for one object: pieces in a folder beside it, and under its own name a line that says which.

The line is written last, and each replacement of the content has pieces of its own, so that a reader finds all of it or nothing.
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Any, Self

from autoslim.storage.file_systems import file_system
from autoslim.storage.objects import ABANDONED_AFTER, delete_object, objects_below, replacing_object, write_object
from autoslim.storage.uri import StorageUri

PIECE_BYTES = 4 * 2**30
"""The most in one object. S3 takes 10,000 parts, and pyarrow makes each 10 MiB long: 97 GiB. Amazon's own tools copy and move objects of up
to 5 GiB by one request."""

_LINE = re.compile(rb"autoslim pieces 1: ([0-9a-f]{16}) ([0-9]{1,9})\n")
_MOST_OF_LINE = 512
"""Bytes; no archive is as short."""


@contextlib.contextmanager
def replacing_pieces(uri: StorageUri, *, size: int, version: str) -> Iterator[Any]:
    """A stream to write about `size` bytes to, as `replacing_object`: in one object where it takes them, and in pieces otherwise.

    Args:
        version: Sixteen hexadecimal digits that other content does not have. Who is killed and begins again with the same content replaces
            its own pieces; those of other versions that nobody writes or names any more are deleted at the end.

    Raises:
        StorageError, UnavailableError: where it cannot be written.
    """
    if size <= PIECE_BYTES:
        with replacing_object(uri) as stream:
            yield stream
        _delete_others(uri, kept="", replaced="")
        return
    before = _LINE.fullmatch(_line(uri))
    with _Writer(_folder(uri) / version) as writer:
        yield writer
    write_object(uri, f"autoslim pieces 1: {version} {writer.count}\n")
    _delete_others(uri, kept=version, replaced="" if before is None else before[1].decode())


@contextlib.contextmanager
def open_pieces(uri: StorageUri, *, size: int, buffer_size: int) -> Iterator[Any]:
    """The content at `uri`, whose object has `size` bytes, to be read from its beginning. It ends early where a piece is missing.

    Raises:
        OSError: where it cannot be read.
    """
    line = _LINE.fullmatch(_line(uri)) if size <= _MOST_OF_LINE else None
    if line is None:
        with file_system(uri).open_input_stream(uri.path, buffer_size=buffer_size) as stream:
            yield stream
        return
    folder = _folder(uri) / line[1].decode()
    with _Reader([folder / _name(number) for number in range(int(line[2]))], buffer_size) as reader:
        yield reader


def delete_pieces(uri: StorageUri) -> None:
    """Deletes the content at `uri`, which may be missing. Raises StorageError, UnavailableError where it cannot be deleted."""
    delete_object(uri)
    for info in objects_below(_folder(uri), recursive=True):
        delete_object(_place(uri, info.path))


def _folder(uri: StorageUri) -> StorageUri:
    return StorageUri(uri.scheme, uri.bucket, f"{uri.key}.pieces")


def _place(uri: StorageUri, path: str) -> StorageUri:
    """Of the path of a piece, as a listing has it."""
    return _folder(uri) / path.removeprefix(f"{_folder(uri).path}/")


def _name(number: int) -> str:
    return f"{number:06}"


def _line(uri: StorageUri) -> bytes:
    """What there is at `uri`, as far as it may be such a line."""
    with contextlib.suppress(FileNotFoundError), file_system(uri).open_input_stream(uri.path) as stream:
        content: bytes = stream.read(_MOST_OF_LINE)
        return content
    return b""


def _delete_others(uri: StorageUri, *, kept: str, replaced: str) -> None:
    """The pieces of other versions: those of the one that was `replaced`, and what killed processes have left."""
    versions = defaultdict[str, list[Any]](list)
    for info in objects_below(_folder(uri), recursive=True):
        version = _place(uri, info.path).key.split("/")[-2]
        if version != kept:
            versions[version].append(info)
    if not versions:
        return
    written = file_system(uri).get_file_info(uri.path).mtime
    for version, infos in versions.items():
        # Of a younger one another process may be writing the next piece.
        if version == replaced or all(written - info.mtime > ABANDONED_AFTER for info in infos):
            for info in infos:
                delete_object(_place(uri, info.path))


class _Writer:
    """A stream whose bytes go to one piece after the other; the piece that an error interrupts is not there."""

    def __init__(self, folder: StorageUri) -> None:
        self._folder = folder
        self._piece: contextlib.AbstractContextManager[IO[bytes]] | None = None
        self._stream: IO[bytes] | None = None
        self._written, self._left = 0, 0
        self.count = 0

    def write(self, data: Any, /) -> int:
        left = memoryview(data).cast("B")
        while left:
            if self._left == 0:
                self._begin_piece()
            assert self._stream is not None
            part, left = left[: self._left], left[self._left :]
            self._stream.write(part)
            self._written, self._left = self._written + len(part), self._left - len(part)
        return len(memoryview(data).cast("B"))

    def tell(self) -> int:
        return self._written

    def _begin_piece(self) -> None:
        self.__exit__(None, None, None)
        piece = replacing_object(self._folder / _name(self.count))
        self._stream = piece.__enter__()
        self._piece, self._left, self.count = piece, PIECE_BYTES, self.count + 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /) -> None:
        piece, self._piece = self._piece, None
        if piece is not None:
            piece.__exit__(kind, error, traceback)


class _Reader:
    """The bytes of one piece after the other."""

    def __init__(self, places: list[StorageUri], buffer_size: int) -> None:
        self._places, self._buffer_size = iter(places), buffer_size
        self._stack = contextlib.ExitStack()
        self._stream: Any = None

    def read(self, size: int, /) -> bytes:
        while True:
            if self._stream is not None and (content := self._stream.read(size)):
                return content  # type: ignore[no-any-return]
            if not self._open_next():
                return b""

    def _open_next(self) -> bool:
        self._stack.close()
        self._stream = None
        place = next(self._places, None)
        if place is not None:
            try:
                opened = file_system(place).open_input_stream(place.path, buffer_size=self._buffer_size)
            except FileNotFoundError:
                self._places = iter(())
            else:
                self._stream = self._stack.enter_context(opened)
        return self._stream is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
