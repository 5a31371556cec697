"""`WebhookEvents`: what `--webhook` is told of a search on this machine, and what a notification says of a job.

The service's notifications are made of its events by its supervisor (`workers/service/webhook_relay.py`); they say the same.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoslim.core.job import SearchJob
from autoslim.core.record import digest_of
from autoslim.core.result import TrialResult
from autoslim.core.run_folder import RunFolder
from autoslim.errors import first_line
from autoslim.webhook.message import make_message
from autoslim.webhook.outbox import Outbox
from workers.progress.best_trials import BestTrials
from workers.progress.callbacks import SearchCallback, SearchInfo

BEST, SUCCEEDED, FAILED, CANCELLED = "job.best", "job.succeeded", "job.failed", "job.cancelled"
"""The types of notifications."""

_LAST_SECONDS = 30.0
"""How long the end of a search waits for the receiver: one that is down must not keep finished models from their user."""

_MEASURED = ("label", "trial", "method", "model", "accuracy", "test_accuracy", "flops", "params", "budget_share")


class WebhookEvents(SearchCallback):
    """Nothing is sent before the first attempt has begun: the folder may be another search's until then."""

    def __init__(self, job: SearchJob, secret: bytes) -> None:
        assert job.webhook is not None, "nobody to notify"
        self._job, self._url, self._secret = job, job.webhook, secret
        self._outbox: Outbox | None = None
        self._best: BestTrials | None = None

    def on_attempt_start(self, results: Sequence[TrialResult]) -> None:
        self._outbox = Outbox(RunFolder(Path(self._job.output)).webhook, self._secret, remember=True)
        # What an earlier attempt could not deliver, perhaps because the URL was wrong.
        self._outbox.redirect(self._url)
        self._outbox.start()

    def on_search_start(self, search: SearchInfo) -> None:
        self._best = BestTrials(search)
        self._tell_best()

    def on_trial_end(self, result: TrialResult, target: str) -> None:
        if self._best is not None:
            self._best.add(result)
            self._tell_best()

    def succeed(self, models: Iterable[Mapping[str, Any]], missing: Sequence[str], trials: Mapping[str, int]) -> None:
        """`trials` are counted by state."""
        data = ended(self._job.id, "SUCCEEDED", models=models, missing=missing, trials=trials)
        # The same search that is resumed after its end measures its models again, perhaps with other last digits.
        chosen = {model["label"]: model["trial"] for model in data["models"]}
        self._end(SUCCEEDED, data, chosen | {"missing": list(missing), "trials": dict(trials)})

    def fail(self, message: str) -> None:
        data = ended(self._job.id, "FAILED", error=message)
        self._end(FAILED, data, data)

    def end_with(self, error: BaseException) -> None:
        """Failed, or cancelled by Ctrl-C or SIGTERM."""
        if isinstance(error, Exception):
            self.fail(first_line(error))
        else:
            data = ended(self._job.id, "CANCELLED")
            self._end(CANCELLED, data, data)

    def _tell_best(self) -> None:
        for data in self._best.news() if self._best is not None else ():
            self._put(BEST, {"job": self._job.id, **data}, {"label": data["label"], "trial": data["trial"]})

    def _put(self, type: str, data: dict[str, Any], identity: dict[str, Any]) -> None:
        """`identity` is what makes it another notification of this type."""
        if self._outbox is not None:
            key = f"{self._job.id}.{type}.{digest_of(identity)}"
            self._outbox.put([make_message(self._url, type, data, identity=key, at=time.time())])

    def _end(self, type: str, data: dict[str, Any], identity: dict[str, Any]) -> None:
        self._put(type, data, identity)
        if self._outbox is not None and (undelivered := self._outbox.close(_LAST_SECONDS)) is not None:
            sys.stderr.write(f"webhook: {undelivered}; `search --resume` sends what waits in webhook.json\n")


def ended(
    job_id: str,
    state: str,
    *,
    models: Iterable[Mapping[str, Any]] = (),
    missing: Sequence[str] = (),
    trials: Mapping[str, int] | None = None,
    error: str | None = None,
) -> dict[str, Any]:
    """What is told of a job that has ended; `models` have the fields of `SelectedModel`."""
    told = [{name: model[name] for name in _MEASURED if name in model} for model in models]
    return {"job": job_id, "state": state, "models": told, "missing": list(missing), "trials": dict(trials or {}), "error": error}
