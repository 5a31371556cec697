"""`SearchAttempt`: what the steps of one attempt at a search share."""

from __future__ import annotations

import dataclasses

from autoslim.core.job import SearchJob
from autoslim.store import Store
from workers.progress.callbacks import SearchCallback
from workers.progress.console import Console
from workers.search.kept_output import KeptOutput
from workers.search.prepare import PreparedSearch
from workers.search.signals import GracefulShutdown
from workers.search.slots import Slots
from workers.search.spending_guard import SpendingGuard


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchAttempt:
    """`slots` says how many trials run at a time; `callback` is that of who runs the search."""

    prepared: PreparedSearch
    store: Store
    console: Console
    callback: SearchCallback
    kept: KeptOutput
    shutdown: GracefulShutdown
    slots: Slots
    spending: SpendingGuard

    @property
    def job(self) -> SearchJob:
        return self.prepared.job
