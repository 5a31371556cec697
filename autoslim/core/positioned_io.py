"""Reads and writes at a place of a file, of any length: one call of the system moves two GiB at most."""

from __future__ import annotations

import os

_MOST_BYTES = 0x7FFF_F000
"""Of one call, as Linux limits it; another system may take less."""


def read_at(file: int, into: memoryview, offset: int) -> int:
    """Fills `into`, one dimension of bytes, from the file of this descriptor. Returns how many bytes there were up to the file's end."""
    done = 0
    while done < len(into):
        count = os.preadv(file, [into[done : done + _MOST_BYTES]], offset + done)
        if count == 0:
            break
        done += count
    return done


def write_at(file: int, data: memoryview, offset: int) -> None:
    """Writes all of `data`, one dimension of bytes. Raises OSError where it cannot."""
    done = 0
    while done < len(data):
        done += os.pwrite(file, data[done : done + _MOST_BYTES], offset + done)
