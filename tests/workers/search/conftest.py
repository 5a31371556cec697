from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers.workers_command import Search


@pytest.fixture
def no_search_is_left() -> Iterator[None]:
    """Kills the searches that a failed test leaves running."""
    yield
    for search in Search.begun:
        if search.process.poll() is None:
            search.kill_all()
    Search.begun.clear()
