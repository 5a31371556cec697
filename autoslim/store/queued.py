"""The records of the queue: a submitted job, its states, its failure, the claim of the process that has it, its events."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

from autoslim.core.record import Record


class QueueState(enum.StrEnum):
    """The state of a submitted job; `TRANSITIONS` has the changes that are allowed."""

    QUEUED = "QUEUED"
    STARTING = "STARTING"
    PREPARING = "PREPARING"
    SEARCHING = "SEARCHING"
    FINALIZING = "FINALIZING"
    PAUSED = "PAUSED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def running(self) -> bool:
        """Somebody has it, by a lease."""
        return self in RUNNING

    @property
    def ended(self) -> bool:
        return not TRANSITIONS[self]


_S = QueueState
RUNNING = (_S.STARTING, _S.PREPARING, _S.SEARCHING, _S.FINALIZING)
_OUT = frozenset({_S.QUEUED, _S.PAUSED, _S.FAILED, _S.CANCELLED})
"""From every running state: returned or lost with its driver, paused, failed, cancelled."""

TRANSITIONS: dict[QueueState, frozenset[QueueState]] = {
    # FAILED: its plan, which came after it, shows that it cannot be done.
    _S.QUEUED: frozenset({_S.STARTING, _S.FAILED, _S.CANCELLED}),
    _S.STARTING: _OUT | {_S.PREPARING},
    _S.PREPARING: _OUT | {_S.SEARCHING},
    _S.SEARCHING: _OUT | {_S.FINALIZING},
    _S.FINALIZING: _OUT | {_S.SUCCEEDED},
    # PREPARING: it was paused while its driver waited for a node, and has found one.
    _S.PAUSED: frozenset({_S.QUEUED, _S.PREPARING, _S.CANCELLED}),
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
}


class FailureClass(enum.StrEnum):
    """Whose fault it was that a job failed, or why it is paused."""

    REQUEST = "REQUEST"
    INFEASIBLE = "INFEASIBLE"
    DATA = "DATA"
    DIVERGED = "DIVERGED"
    OOM = "OOM"
    STORAGE = "STORAGE"
    INFRA = "INFRA"
    BUG = "BUG"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure(Record):
    """`message` is one sentence, `next` one command."""

    failure_class: FailureClass
    message: str
    next: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class QueuedJob(Record):
    """`spec` and `result` are JSON. `reason` says why it is in this state, where the state alone does not.

    `attempt` counts the drivers it has had, `losses` those in a row that were lost with no trial ended, `pauses` likewise.
    """

    id: str
    tenant: str
    name: str | None
    priority: int
    spec: str
    state: QueueState
    reason: str | None = None
    attempt: int = 0
    losses: int = 0
    pauses: int = 0
    owner: str | None = None
    idempotency_key: str | None = None
    cancel_requested_at: str | None = None
    not_before: str | None = None
    lease_until: str | None = None
    failure: Failure | None = None
    result: str | None = None
    created_at: str
    updated_at: str
    started_at: str | None = None
    ended_at: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quota(Record):
    """What a tenant's unfinished jobs may be together: their number, and the multiply-accumulates that they compute at most."""

    jobs: int
    work: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim(Record):
    """The right to act on a job, as long as its fence is the row's."""

    id: str
    attempt: int
    fence: int
    owner: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event(Record):
    """`seq` rises over all jobs; a reader continues after the last one it has. `data` is JSON whose fields depend on `type`."""

    seq: int
    job_id: str
    at: str
    type: str
    data: dict[str, Any]
