"""Data sets in object stores: files at a URI are fetched once a node, into the user's cache, and read there as any other data set."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from autoslim.core.user_cache import cache_folder
from autoslim.data.manifest_file import SUFFIXES
from autoslim.data.table import Source
from autoslim.errors import DatasetError
from autoslim.storage import FORMS, Listing, StorageUri, fetch, is_uri, look

_PATTERN = re.compile(r"(.*/)?([^/]*\{[^/]*\}[^/]*)")
"""A folder, and names in it such as `train-{000000..000002}.tar`."""


def look_at(source: str) -> Listing:
    """The files of the data set at a URI; of a pattern of tars those of its folder that may be meant, as `tars.expand` says of each.

    Raises:
        StorageError, UnavailableError: as `autoslim.storage.look`.
        DatasetError: for a manifest without the images that it names.
    """
    # The first thing: messages below quote the source, which has no credentials then.
    uri = StorageUri.parse(source)
    if source.lower().endswith(SUFFIXES):
        raise DatasetError(f"{source} is a manifest, whose images are fetched with its folder; give the folder as --data")
    pattern = _PATTERN.fullmatch(source)
    if pattern is None:
        return look(uri)
    begin, end = pattern[2].partition("{")[0], pattern[2].rpartition("}")[2]
    found = look(StorageUri.parse(pattern[1] or "")).only(
        lambda name: "/" not in name and name.startswith(begin) and name.endswith(end)
    )
    if not found.files:
        raise DatasetError(f"--data {source!r} means no file that is there; allowed: {', '.join(FORMS.values())}")
    return found


def open_remote(
    source: str, listing: Listing, open_local: Callable[[str], Source], *, tell: Callable[[str], None] | None = None
) -> Source:
    """Fetches the files of `listing`, which is of `source`, and reads them with `open_local`; the source's name is the URI.

    Raises:
        StorageError, UnavailableError, OutputError: as `autoslim.storage.fetch`.
        DatasetError: for files that cannot be read or used; it names them by the URI.
    """
    place, pattern = fetch(listing, cache_folder(), tell=tell), _PATTERN.fullmatch(source)
    path = str(place if pattern is None else place / pattern[2])
    try:
        return dataclasses.replace(open_local(path), name=source)
    except DatasetError as error:
        raise DatasetError(str(error).replace(path, source), flags=error.flags) from error


@contextlib.contextmanager
def fetched_token_labels(folder: str | None) -> Iterator[Path | None]:
    """The folder of the labels of patches on this machine, to which those at a URI are fetched; errors in the block name them by the URI.

    Raises:
        StorageError, UnavailableError, OutputError: as `autoslim.storage.look` and `fetch`.
    """
    if folder is None or not is_uri(folder):
        yield None if folder is None else Path(folder).expanduser()
        return
    place = fetch(look(StorageUri.parse(folder)), cache_folder())
    try:
        yield place
    except DatasetError as error:
        raise DatasetError(str(error).replace(str(place), folder), flags=error.flags) from error
