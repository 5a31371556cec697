"""`confined`: the one rule for paths that must not leave a folder."""

from __future__ import annotations

from pathlib import Path


def confined(path: Path, root: Path) -> Path | None:
    """`path` with its links resolved if that lies within `root`, whether or not it exists; None for every other path."""
    try:
        found = path.resolve()
        return found if found.is_relative_to(root.resolve()) else None
    except (OSError, ValueError, RuntimeError):
        # A name with a null byte, or links in a circle.
        return None
