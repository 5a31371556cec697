"""`model_folder`: a model's folder for a command, wherever it lies."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from autoslim.core.user_cache import cache_folder
from autoslim.errors import StorageError
from autoslim.storage.download import fetch
from autoslim.storage.listing import look, stat
from autoslim.storage.objects import objects_below
from autoslim.storage.upload import upload_file
from autoslim.storage.uri import StorageUri, is_uri

_CONFIG = "config.json"


@contextlib.contextmanager
def model_folder(text: str, *, writes: bool = False) -> Iterator[Path]:
    """The folder at a path, or of a URI a copy on this machine. What a command that `writes` adds to the copy or changes in it goes back,
    the configuration last.

    Raises:
        StorageError, UnavailableError: where the store cannot be read or written, or the URI is no model's.
        OutputError: where the cache cannot be written.
    """
    if not is_uri(text):
        yield Path(text)
        return
    uri = StorageUri.parse(text)
    _check_is_model(uri)
    fetched = fetch(look(uri), cache_folder())
    if not writes:
        yield fetched
        return
    with tempfile.TemporaryDirectory(prefix="autoslim-") as scratch:
        # The cache's copy belongs to a digest of its content.
        copy = Path(scratch) / fetched.name
        shutil.copytree(fetched, copy)
        before = _stamps(copy)
        yield copy
        changed = [name for name, stamp in _stamps(copy).items() if before.get(name) != stamp]
        for name in sorted(changed, key=lambda name: name == _CONFIG):
            upload_file(copy / name, uri / name)


def _check_is_model(uri: StorageUri) -> None:
    """Before everything at the URI is fetched, which may be a whole search."""
    if stat(uri / _CONFIG) is None:
        names = {
            info.path.removeprefix(f"{uri.path}/models/").split("/")[0] for info in objects_below(uri / "models", recursive=True)
        }
        models = ", ".join(f"{uri}/models/{name}" for name in sorted(names))
        raise StorageError(f"{uri} holds no model: it has no {_CONFIG}{f'; allowed: {models}' if models else ''}")


def _stamps(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What changes with a file, by the names of the files at any depth."""
    found: dict[str, os.stat_result] = {
        path.relative_to(folder).as_posix(): path.stat() for path in sorted(folder.rglob("*")) if path.is_file()
    }
    return {name: (state.st_ino, state.st_mtime_ns, state.st_size) for name, state in found.items()}
