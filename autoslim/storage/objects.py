"""Objects of a store that are replaced as a whole, small ones that are read and written whole, and what is deleted there."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

from autoslim.storage.faults import explained
from autoslim.storage.file_systems import file_system
from autoslim.storage.uri import Scheme, StorageUri

ABANDONED_AFTER = datetime.timedelta(days=1)
"""What was not written to for so long, by the store's clock, and has not its final name, is what a killed process has left."""

_EMPTY_AT_FIRST = (Scheme.FILE, Scheme.AZURE)
"""Where a stream that is opened makes an empty file at once; the other stores make the object when the stream is closed."""


@contextlib.contextmanager
def replacing_object(uri: StorageUri) -> Iterator[IO[bytes]]:
    """A stream to write to; its content is at `uri` when the block ends, in the place of what was there.

    After an error, an interrupt among them, what was there stays, and the other content is found nowhere.

    Raises:
        StorageError, UnavailableError: where it cannot be written.
    """
    replacing = _moved_there if uri.scheme in _EMPTY_AT_FIRST else _made_at_close
    with replacing(file_system(uri), uri) as stream:
        yield stream


@contextlib.contextmanager
def _made_at_close(system: Any, uri: StorageUri) -> Iterator[Any]:
    # pyarrow cannot give an upload up: whatever was written becomes the object when the stream is closed, and it is closed when nothing
    # refers to it any more. After an error it stays held up to the end of the process, with the one part that it has in memory.
    # In a thread, which no signal interrupts: a stream that is lost before it is held would be closed.
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(_held, system, uri.path).result()
    yield stream
    stream.close()
    ctypes.pythonapi.Py_DecRef(ctypes.py_object(stream))


def _held(system: Any, path: str) -> Any:
    """A stream that is never closed by itself, not by the interpreter's end either, which clears all modules."""
    stream = system.open_output_stream(path)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(stream))
    return stream


@contextlib.contextmanager
def _moved_there(system: Any, uri: StorageUri) -> Iterator[Any]:
    folder, _, name = uri.path.rpartition("/")
    if uri.scheme is Scheme.FILE:
        system.create_dir(folder or "/", recursive=True)
    place = f"{folder}/.{name}.{uuid.uuid4().hex}.partial"
    stream = system.open_output_stream(place)
    try:
        yield stream
        stream.close()
        if uri.scheme is Scheme.FILE:
            system.move(place, uri.path)
        else:
            # The client moves only in accounts with a hierarchy of folders. The store copies by itself, as a whole.
            system.copy_file(place, uri.path)
    finally:
        with contextlib.suppress(OSError):
            stream.close()
        with contextlib.suppress(OSError):
            system.delete_file(place)
    with contextlib.suppress(OSError):
        _delete_abandoned(system, uri)


def _delete_abandoned(system: Any, uri: StorageUri) -> None:
    """What killed processes have left beside the object, which was written just now."""
    from pyarrow.fs import FileSelector

    folder, _, name = uri.path.rpartition("/")
    infos = {info.base_name: info for info in system.get_file_info(FileSelector(folder or "/"))}
    own = infos.get(name)
    if own is None:
        # Somebody else has deleted it since.
        return
    for other, info in infos.items():
        is_partial = other.startswith(f".{name}.") and other.endswith(".partial")
        if is_partial and own.mtime - info.mtime > ABANDONED_AFTER:
            system.delete_file(info.path)


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
