"""A driver ends when its lease has run out, also where the database neither answers nor refuses."""

from __future__ import annotations

import threading
from typing import cast

from autoslim.errors import UnavailableError
from autoslim.store import Claim, Queue
from workers.service.lease_keeper import LeaseKeeper

CLAIM = Claim(id="job", attempt=1, fence=1, owner="a")
LEASE = 0.2
# Far longer than anything here takes.
PATIENCE = 60.0


class _Silent:
    """`renew` waits until the test is over."""

    def __init__(self) -> None:
        self.asked, self.over = threading.Event(), threading.Event()

    def renew(self, _claim: Claim, _seconds: float) -> bool:
        self.asked.set()
        self.over.wait(PATIENCE)
        return False


class _Refusing:
    def renew(self, _claim: Claim, _seconds: float) -> bool:
        raise UnavailableError("the database is away")


class _Answering:
    """Sets `enough` when it has renewed the lease for several times as long as it lasts."""

    def __init__(self) -> None:
        self.renewals, self.enough = 0, threading.Event()

    def renew(self, _claim: Claim, _seconds: float) -> bool:
        self.renewals += 1
        if self.renewals == 12:
            self.enough.set()
        return False


class _Exit:
    """Instead of the process's end."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.asked = threading.Event()

    def __call__(self, code: int) -> None:
        self.codes.append(code)
        self.asked.set()


def test_a_renewal_that_is_never_answered_ends_the_process_when_the_lease_has_run_out():
    silent, exit_process = _Silent(), _Exit()
    with LeaseKeeper(cast(Queue, silent), CLAIM, LEASE, exit_process=exit_process):
        assert silent.asked.wait(PATIENCE)
        assert exit_process.asked.wait(PATIENCE / 2)
        silent.over.set()
    assert exit_process.codes == [1]


def test_a_renewal_that_is_never_answered_ends_a_process_that_closes_its_keeper_too():
    silent, exit_process = _Silent(), _Exit()
    keeper = LeaseKeeper(cast(Queue, silent), CLAIM, LEASE, exit_process=exit_process)
    with keeper:
        assert silent.asked.wait(PATIENCE)
        closing = threading.Thread(target=keeper.close)
        closing.start()
        assert exit_process.asked.wait(PATIENCE / 2)
        silent.over.set()
        closing.join()


def test_a_database_that_refuses_ends_the_process_when_the_lease_has_run_out():
    exit_process = _Exit()
    with LeaseKeeper(cast(Queue, _Refusing()), CLAIM, LEASE, exit_process=exit_process):
        assert exit_process.asked.wait(PATIENCE)
    assert exit_process.codes == [1]


def test_a_log_that_hangs_does_not_keep_the_process_alive(monkeypatch):
    silent, exit_process, hang = _Silent(), _Exit(), threading.Event()
    monkeypatch.setattr("workers.service.lease_keeper._LOG_SECONDS", 0.01)
    monkeypatch.setattr("workers.service.lease_keeper._log.error", lambda *_: hang.wait(PATIENCE))
    with LeaseKeeper(cast(Queue, silent), CLAIM, LEASE, exit_process=exit_process):
        assert exit_process.asked.wait(PATIENCE / 2)
        silent.over.set()
        hang.set()


def test_a_lease_that_is_renewed_keeps_the_process():
    answering, exit_process = _Answering(), _Exit()
    with LeaseKeeper(cast(Queue, answering), CLAIM, 2.0, exit_process=exit_process):
        assert answering.enough.wait(PATIENCE)
    assert exit_process.codes == []
