"""What only a server can do: go away, and come back."""

from __future__ import annotations

import pytest
from helpers.databases import PASSWORD, fresh_postgres, postgres_server

from autoslim.errors import UnavailableError
from autoslim.store import Queue


@pytest.mark.slow
def test_a_server_that_is_down_is_told_without_its_password_and_used_again_when_it_is_back():
    with postgres_server() as server, Queue(fresh_postgres(server)) as queue:
        job, _ = queue.submit("{}", tenant="me")
        server.stop("immediate")
        with pytest.raises(UnavailableError, match="cannot be reached") as caught:
            queue.claim("a", 60)
        assert PASSWORD not in str(caught.value)
        assert caught.value.__cause__ is None
        server.start(password=PASSWORD)
        assert queue.claim("a", 60).id == job.id
