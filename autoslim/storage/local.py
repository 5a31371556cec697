"""`local_path`: what a user has named, on this machine."""

from __future__ import annotations

from pathlib import Path

from autoslim.core.user_cache import cache_folder
from autoslim.storage.download import fetch
from autoslim.storage.listing import look
from autoslim.storage.uri import StorageUri, is_uri


def local_path(text: str) -> Path:
    """A path as it is, and of a URI its copy in the user's cache, which is fetched where it is not there yet.

    Raises:
        StorageError, UnavailableError, OutputError: as `fetch`.
    """
    return fetch(look(StorageUri.parse(text)), cache_folder()) if is_uri(text) else Path(text)
