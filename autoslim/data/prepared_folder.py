"""Where the user's cache has prepared data sets."""

from __future__ import annotations

from pathlib import Path

from autoslim.core.user_cache import cache_folder

PREPARED = "prepared"
"""In the user's cache: data sets as `prepare_dataset` writes them, which all searches of a node share: those of object stores, and those of
this machine's files (`kept_set`)."""


def prepared_folder() -> Path:
    return cache_folder() / PREPARED


def make_prepared_folder() -> Path:
    """A new one is for its owner alone, whoever may read the folders of outputs. Raises OSError where it cannot be made."""
    folder = prepared_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    # One that is there stays as it is: several users may have sets of object stores from it.
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
