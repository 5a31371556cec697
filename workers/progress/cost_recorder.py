"""The cost of work that no trial does alone, recorded in the store as soon as it is done, so that none is lost with a driver."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from autoslim.core.job import SearchJob
from autoslim.core.result import HANDING_OVER, EpochReport, Phase, SharedCost, TrialResult
from autoslim.core.run_folder import RunFolder
from autoslim.storage.mirror import NO_MIRROR, Mirror
from autoslim.store import Store
from autoslim.training.shared_results import costs, kept_costs
from workers.progress.callbacks import SearchCallback, SearchInfo


class CostRecorder(SearchCallback):
    """Shared work is the adapting of the dense model, and what methods compute once for several trials."""

    def __init__(self, store: Store, job: SearchJob, output: RunFolder, *, mirror: Mirror = NO_MIRROR) -> None:
        self._store, self._job, self._output, self._mirror = store, job, output, mirror
        self._kept: dict[str, SharedCost] = {}

    def on_search_start(self, search: SearchInfo) -> None:
        self._record()

    def on_epoch_end(self, result: TrialResult, report: EpochReport) -> None:
        # What a method shares is complete before its first trial prunes.
        if report.phase is Phase.PRUNE:
            self._record()

    def on_trial_end(self, result: TrialResult, target: str) -> None:
        self._record()

    def _record(self) -> None:
        # Of work on other machines, where these share no file system.
        self._kept |= {cost.key: cost for cost in kept_costs(self._mirror, known=self._kept)}
        here = {cost.key: cost for cost in (*costs(self._output.cache), *costs(self._output.shared))}
        self._store.add_shared_costs(self._job.id, list((self._kept | here).values()))


@contextlib.contextmanager
def handover_recorded(store: Store, job_id: str) -> Iterator[None]:
    """Around handing the models over, whichever way it ends: the devices are reserved meanwhile."""
    began = time.monotonic()
    try:
        yield
    finally:
        # Each attempt has its own: a search that is resumed may hand over again.
        key = f"{HANDING_OVER} {store.job(job_id).attempt}"
        seconds = time.monotonic() - began
        store.add_shared_costs(job_id, [SharedCost(key=key, method=HANDING_OVER, settings={}, epochs=0.0, seconds=seconds)])
