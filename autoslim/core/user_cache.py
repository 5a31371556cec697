"""The user's cache folder of autoslim. What lies there saves time and nothing else: it may be deleted while searches run."""

from __future__ import annotations

import os
import re
from pathlib import Path

from autoslim.errors import RequestError

FOLDER, LIMIT = "AUTOSLIM_CACHE", "AUTOSLIM_CACHE_LIMIT"
"""Environment variables: they hold for a machine and its user, and not for one job."""

DEFAULT_LIMIT = "16G"
"""Four data sets of the largest size that is decoded into files (`DatasetSpec.decoded_limit`)."""

_SIZE = re.compile(r"(\d{1,9}(?:\.\d{0,6})?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


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
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise RequestError(
            f"{LIMIT} is {text!r}; allowed: bytes, such as 500M or {DEFAULT_LIMIT}, and 0 to keep no decoded images"
        )
    return int(float(found[1]) * _UNITS[found[2].upper()])
