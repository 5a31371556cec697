"""`local_file`: the file that a user has named, on this machine."""

from __future__ import annotations

from pathlib import Path

from autoslim.core.user_cache import cache_folder
from autoslim.storage.download import fetch
from autoslim.storage.listing import file_at
from autoslim.storage.uri import StorageUri, is_uri


def local_file(text: str) -> Path:
    """A path as it is, and of a URI its copy in the user's cache, which is fetched where it is not there yet.

    Raises:
        StorageError: for a URI without a file.
        StorageError, UnavailableError, OutputError: as `fetch`.
    """
    return fetch(file_at(StorageUri.parse(text)), cache_folder()) if is_uri(text) else Path(text)
