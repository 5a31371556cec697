"""A local Ray for the tests that need one, started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from workers.search.cluster import Cluster, connect


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with connect("local", name="tests") as started:
        yield started
