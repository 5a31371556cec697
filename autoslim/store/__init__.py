"""The one owner of the database: jobs, trials, epochs, and what was logged of them elsewhere."""

from autoslim.store.rows import JobState, StoredEpoch, StoredJob, StoredTrial, TrackedRun
from autoslim.store.store import Store
from autoslim.store.url import default_url, hide_password

__all__ = [
    "JobState",
    "Store",
    "StoredEpoch",
    "StoredJob",
    "StoredTrial",
    "TrackedRun",
    "default_url",
    "hide_password",
]
