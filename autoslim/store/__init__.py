"""The one owner of the database: jobs, trials, epochs, and what was logged of them elsewhere; the queue, its events, the API keys."""

from autoslim.store.access import Access
from autoslim.store.database import PATIENCE_SECONDS, Guard
from autoslim.store.keys import ApiKey, Keys, Scope
from autoslim.store.leases import guard
from autoslim.store.queue import Queue
from autoslim.store.queued import Claim, Event, Failure, FailureClass, QueuedJob, QueueState, Quota
from autoslim.store.rows import JobState, StoredEpoch, StoredJob, StoredTrial, TrackedRun
from autoslim.store.store import Store

__all__ = [
    "PATIENCE_SECONDS",
    "Access",
    "ApiKey",
    "Claim",
    "Event",
    "Failure",
    "FailureClass",
    "Guard",
    "JobState",
    "Keys",
    "Queue",
    "QueueState",
    "QueuedJob",
    "Quota",
    "Scope",
    "Store",
    "StoredEpoch",
    "StoredJob",
    "StoredTrial",
    "TrackedRun",
    "guard",
]
