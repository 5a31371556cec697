"""The rule for links in a data set's folder, of every layout."""

from __future__ import annotations

from pathlib import Path

from autoslim.core.confine import confined
from autoslim.errors import DatasetError


def check_inside(root: Path, path: Path) -> None:
    """Raises DatasetError for a link that leads out of `root`: whoever may write there must not choose what else is read."""
    if confined(path, root) is None:
        raise DatasetError(f"{path} is a link that leads out of {root}; copy into the folder what it leads to")
