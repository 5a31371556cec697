"""The user's cache folder of autoslim. What lies there saves time and nothing else: it may be deleted while searches run."""

from __future__ import annotations

import os
from pathlib import Path

from autoslim.core.byte_size import parse_byte_size
from autoslim.errors import RequestError

FOLDER, LIMIT = "AUTOSLIM_CACHE", "AUTOSLIM_CACHE_LIMIT"
"""Environment variables: they hold for a machine and its user, and not for one job."""

DEFAULT_LIMIT = "16G"
"""A hundred thousand images of 224 by 224 pixels."""


def cache_folder() -> Path:
    """`AUTOSLIM_CACHE`, or `autoslim` in `XDG_CACHE_HOME` or `~/.cache`."""
    own, base = os.environ.get(FOLDER), os.environ.get("XDG_CACHE_HOME", "")
    if own:
        return Path(own).expanduser().absolute()
    return (Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()) / "autoslim"


def cache_limit() -> int:
    """Bytes that decoded images may take there: `AUTOSLIM_CACHE_LIMIT`, in units of 1,024, or the default; 0 keeps none.

    Raises:
        RequestError: for a value of another form.
    """
    text = os.environ.get(LIMIT) or DEFAULT_LIMIT
    try:
        return parse_byte_size(text)
    except RequestError as error:
        raise RequestError(f"{LIMIT} {error}, and 0 to keep no decoded images") from None
