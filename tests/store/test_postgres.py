"""What only a server can do: go away, and come back."""

from __future__ import annotations

import time

import pytest
from helpers.databases import PASSWORD, fresh_postgres, postgres_server

from autoslim.errors import LeaseLostError, UnavailableError
from autoslim.store import Queue, database, guard


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


def test_a_process_that_stops_within_a_transaction_does_not_keep_its_job_from_the_next_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(database, "_IDLE_SECONDS", 1)
    with postgres_server() as server:
        url = fresh_postgres(server)
        with Queue(url) as queue:
            job, _ = queue.submit("{}", tenant="me")
            claim = queue.claim("a", -1)
            stopped = database.Database(url)
            try:
                with pytest.raises(UnavailableError, match="cannot be reached"), stopped.writing() as connection:
                    guard(claim, lambda reason: None)(connection)
                    # What it holds is not waited for by those who look for lost jobs, and nobody else has it.
                    assert queue.claim("b", 60) is None
                    deadline = time.monotonic() + 20
                    while (taken := queue.claim("b", 60)) is None:
                        assert time.monotonic() < deadline, "the stopped process keeps the job"
                        time.sleep(0.1)
                    assert (taken.id, taken.attempt) == (job.id, 2)
                    # It is woken.
                    guard(claim, lambda reason: None)(connection)
                with pytest.raises(LeaseLostError), stopped.writing() as connection:
                    guard(claim, lambda reason: None)(connection)
            finally:
                stopped.close()
