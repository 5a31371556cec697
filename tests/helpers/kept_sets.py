"""`forget_kept_sets`: for tests of what a second reading of a data set finds."""

from __future__ import annotations

import shutil

from autoslim.data.prepared_folder import prepared_folder


def forget_kept_sets() -> None:
    """The next preparation reads its source, also one that was prepared before."""
    shutil.rmtree(prepared_folder(), ignore_errors=True)
