"""How many bytes of decoded images a data set may take where the user does not say (`--decoded-limit`)."""

from __future__ import annotations

import shutil
from pathlib import Path

from autoslim.core.memory import usable_memory
from autoslim.core.user_cache import cache_limit

LEAST = 2**30
"""Bytes that a data set may always take: what is smaller is decoded once, whatever the node has."""


def measured_limit(folder: Path) -> int:
    """Of a data set that is prepared in `folder`, which need not be there: half of this node's memory, at most half of the free disk there
    and what the user's cache keeps of all sets together, at least `LEAST`.

    Decoded images are fast as long as the system's cache of files holds them, beside what trials need. What the user's cache does not keep
    would be decoded a second time.
    """
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    limit = min(usable_memory() // 2, shutil.disk_usage(existing).free // 2)
    return max(LEAST, min(limit, cache_limit() or limit))
