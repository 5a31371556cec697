"""Numbers of bytes as people write them: `500M`, `16G`, in units of 1,024."""

from __future__ import annotations

import re

from autoslim.errors import RequestError

_UNITS: dict[str, int] = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
BYTE_SIZE_PATTERN = r"^[0-9]{1,12}(\.[0-9]{1,6})?[KMGTkmgt]?$"
"""For schemas. The parser takes more: spaces, `GiB`, and what `byte_size_text` makes of any number."""

_SIZE = re.compile(r"(\d{1,24}(?:\.\d{0,6})?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE | re.ASCII)


def parse_byte_size(text: str) -> int:
    """Bytes.

    Raises:
        RequestError: for anything else. The message continues the name of the setting.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise RequestError(f"is {text!r}; allowed: bytes, such as 500M or 16G")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def byte_size_text(count: int) -> str:
    """As `parse_byte_size` reads it, in the largest unit of which there is a whole number."""
    unit = next((unit for unit in reversed(_UNITS) if count and count % _UNITS[unit] == 0), "")
    return f"{count // _UNITS[unit]}{unit}"
