"""A driver like `workers.service.attempt`, but for the search: it takes a moment a trial, keeps its trials in the store, and misbehaves on
request.

`AUTOSLIM_TEST_MISCHIEF` is a file; while it exists, its text says what goes wrong.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import time
from pathlib import Path
from typing import ClassVar

from helpers.sample_search import DENSE, make_recipe, make_report, make_result

from autoslim.core.job import SearchJob
from autoslim.core.result import Origin, TrialState
from autoslim.core.score import ACCURACY
from autoslim.errors import DivergedError
from autoslim.store import Guard, JobState, Store
from workers.progress.callbacks import SearchCallback, SearchInfo, SearchStage
from workers.progress.cost import SearchCost
from workers.service import lease_keeper
from workers.service.attempt import main

BUDGET = make_recipe(0).budget


class Model(dict):
    """As little of a SelectedModel as the attempt looks at."""

    label, trial, test_accuracy, dense_test_accuracy, probe = "50%", 0, 0.8, 0.9, None

    def to_dict(self) -> dict:
        return {"label": self.label, "folder": "/somewhere"}


class Ended:
    dense_flops, dense_accuracy, logged, states = 100, 0.9, True, {"complete": 1}
    score, within_noise = ACCURACY.name, None
    reasons: ClassVar[dict] = {}
    speeds: ClassVar[dict] = {}
    images: ClassVar[dict] = {"validation": 100, "test": 200}
    cost = SearchCost(seconds=1.0, device="CPU", device_hours=0.5, bytes=1000, price=2.0)

    def __init__(self, found: bool) -> None:
        self.models = (Model(),) if found else ()
        self.missing = () if found else ("50%",)
        self.why_missing = dict.fromkeys(self.missing, "no trial was completed within this budget")


def trivial_search(job: SearchJob, *, resume: bool, storage: str, callback: SearchCallback, guard: Guard) -> Ended:
    folder = Path(job.output)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "alone").open("w") as alone:
        # Two drivers at once would be seen here.
        fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with Store(storage, guard=guard) as store:
            return _search(job, store, callback, folder)


def _search(job: SearchJob, store: Store, callback: SearchCallback, folder: Path) -> Ended:
    if not store.has_job(job.id):
        store.create_job(job)
    attempt = store.begin_attempt(job.id)
    callback.on_attempt_start(store.trials(job.id))
    store.set_base(job.id, DENSE)
    callback.on_message("dense model: epoch 1/1")
    callback.on_stage_start(SearchStage.SEARCHING)
    callback.on_search_start(SearchInfo(job=job, budgets={"50%": BUDGET}, base=DENSE, results=store.trials(job.id)))
    for number in range(job.trials):
        known = {trial.number: trial for trial in store.trials(job.id)}
        running = make_result(number, TrialState.RUNNING, recipe=make_recipe(number, budget=BUDGET))
        if number not in known:
            store.add_trial(job.id, number, running.recipe, origin=Origin.CONTROL, target="50%")
        elif known[number].state is TrialState.RUNNING:
            store.restart_trial(job.id, number)
        else:
            continue
        callback.on_trial_start(running, "50%")
        with (folder / "worked").open("a") as worked:
            worked.write(f"{attempt} {number}\n")
        print(f"trial {number} works", flush=True)
        _work(number)
        report = make_report(1, loss=float("nan"))
        store.report(job.id, number, report)
        callback.on_epoch_end(running, report)
        ended = make_result(number, recipe=running.recipe)
        store.finish_trial(job.id, ended)
        callback.on_trial_end(ended, "50%")
    callback.on_stage_start(SearchStage.FINALIZING)
    store.set_state(job.id, JobState.COMPLETE)
    return Ended(found=_mischief() != "nothing")


def _work(trial: int) -> None:
    until = time.monotonic() + 0.15
    while time.monotonic() < until or _mischief() in ("hang", f"hold {trial}"):
        time.sleep(0.02)
        _misbehave(_mischief())


def _mischief() -> str:
    try:
        return Path(os.environ["AUTOSLIM_TEST_MISCHIEF"]).read_text()
    except FileNotFoundError:
        return ""


def _misbehave(what: str) -> None:
    if what == "full":
        raise OSError(errno.ENOSPC, "No space left on device")
    if what == "deaf":
        while True:
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                continue
    if what == "nan":
        raise DivergedError("the loss is nan")


if __name__ == "__main__":
    lease_keeper.CANCEL_GRACE = float(os.environ.get("AUTOSLIM_TEST_GRACE", lease_keeper.CANCEL_GRACE))
    sys.exit(main(sys.argv[1:], run=trivial_search))
