"""`model_folder` and `dense_folder`: a model's folder on this machine, wherever it lies."""

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
from autoslim.storage.listing import Listing, look, stat
from autoslim.storage.objects import objects_below
from autoslim.storage.upload import upload_file
from autoslim.storage.uri import WRITTEN_FORMS, Scheme, StorageUri, is_uri

_CONFIG = "config.json"
_DENSE_FILES = (_CONFIG, "model.safetensors")


@contextlib.contextmanager
def model_folder(text: str, *, writes: bool = False) -> Iterator[Path]:
    """The folder at a path, or of a URI a copy on this machine. What a command that `writes` adds to the copy or changes in it goes back,
    the configuration last.

    Raises:
        StorageError, UnavailableError: where the store cannot be read or written, or the URI is no model's; or, before anything is read,
            where a command would write to the Hugging Face hub.
        OutputError: where the cache cannot be written.
    """
    if not is_uri(text):
        yield Path(text)
        return
    uri = StorageUri.parse(text)
    if writes and uri.scheme is Scheme.HUGGING_FACE:
        raise StorageError(
            f"the files would be written to {uri}, where each is a commit; allowed: a folder of this machine, {WRITTEN_FORMS}; download "
            "the model with `hf download`, and give its folder"
        )
    # Before everything at the URI is fetched, which may be a whole search.
    if stat(uri / _CONFIG) is None:
        raise _no_model(uri)
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


def dense_folder(text: str) -> Path:
    """The folder of a dense model in timm's hub format: a path as it is, and of a URI a copy of its configuration and weights in the user's
    cache, which are fetched where they are not there yet.

    Raises:
        StorageError: where no model is at the URI.
        StorageError, UnavailableError, OutputError: as `fetch`.
    """
    if not is_uri(text):
        return Path(text)
    uri = StorageUri.parse(text)
    files = tuple(file for name in _DENSE_FILES if (file := stat(uri / name)) is not None)
    if all(file.name != _CONFIG for file in files):
        raise _no_model(uri)
    return fetch(Listing(uri, files, is_folder=True), cache_folder())


def _no_model(uri: StorageUri) -> StorageError:
    """It names the models of a search at the URI, if there is one."""
    names = {
        info.path.removeprefix(f"{uri.path}/models/").split("/")[0] for info in objects_below(uri / "models", recursive=True)
    }
    models = ", ".join(f"{uri}/models/{name}" for name in sorted(names))
    return StorageError(f"{uri} holds no model: it has no {_CONFIG}{f'; allowed: {models}' if models else ''}")


def _stamps(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What changes with a file, by the names of the files at any depth."""
    found: dict[str, os.stat_result] = {
        path.relative_to(folder).as_posix(): path.stat() for path in sorted(folder.rglob("*")) if path.is_file()
    }
    return {name: (state.st_ino, state.st_mtime_ns, state.st_size) for name, state in found.items()}
