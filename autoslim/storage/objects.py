"""Small objects of a store, each written and read whole; and what is deleted there."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import IO, Any

from autoslim.storage.faults import explained
from autoslim.storage.file_systems import file_system
from autoslim.storage.uri import Scheme, StorageUri


@contextlib.contextmanager
def replacing_object(uri: StorageUri) -> Iterator[IO[bytes]]:
    """A stream to write to; its content is at `uri` when the block ends, in the place of what was there.

    Where the store refuses it or does not answer, what was there stays; after another error of the block nothing is there.

    Raises:
        StorageError, UnavailableError: where it cannot be written.
    """
    system = file_system(uri)
    place = uri.path
    if uri.scheme is Scheme.FILE:
        folder, _, name = place.rpartition("/")
        system.create_dir(folder or "/", recursive=True)
        place = f"{folder}/.{name}.{uuid.uuid4().hex}.partial"
    stream = system.open_output_stream(place)
    try:
        yield stream
    except BaseException:
        # An upload cannot be given up: a stream that the store lets close makes an object of what was written to it.
        if _closes(stream) or place != uri.path:
            with contextlib.suppress(OSError):
                system.delete_file(place)
        raise
    # An upload that fails here has made no object.
    stream.close()
    if place != uri.path:
        system.move(place, uri.path)


def _closes(stream: Any) -> bool:
    try:
        stream.close()
    except OSError:
        return False
    return True


def write_object(uri: StorageUri, content: str | bytes) -> None:
    """Raises StorageError, UnavailableError as `replacing_object`."""
    with explained(uri, "written"), replacing_object(uri) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


def read_object(uri: StorageUri) -> bytes | None:
    """None where there is none.

    Raises:
        StorageError, UnavailableError: where it cannot be read.
    """
    with explained(uri, "read"):
        try:
            with file_system(uri).open_input_stream(uri.path) as stream:
                content: bytes = stream.read()
                return content
        except FileNotFoundError:
            return None


def delete_object(uri: StorageUri) -> None:
    """Does nothing where there is none. Raises StorageError, UnavailableError where it cannot be deleted."""
    with explained(uri, "deleted"), contextlib.suppress(FileNotFoundError):
        file_system(uri).delete_file(uri.path)


def delete_objects(uri: StorageUri) -> None:
    """Everything below `uri`. Raises StorageError, UnavailableError as `delete_object`."""
    for info in objects_below(uri, recursive=True):
        with explained(uri, "deleted"), contextlib.suppress(FileNotFoundError):
            file_system(uri).delete_file(info.path)


def objects_below(uri: StorageUri, *, recursive: bool = False) -> list[Any]:
    """The `pyarrow.fs.FileInfo` of each object below `uri`, without what is being written; empty where there is no such folder.

    Raises:
        StorageError, UnavailableError: where it cannot be listed.
    """
    from pyarrow.fs import FileSelector, FileType

    with explained(uri, "listed"):
        infos = file_system(uri).get_file_info(FileSelector(uri.path, allow_not_found=True, recursive=recursive))
    return [info for info in infos if info.type == FileType.File and not info.path.endswith((".partial", "/"))]
