"""`User`: submits one job, watches it through everything, and judges what has become of it."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import httpx

from faults.service import until

T = TypeVar("T")

SPEC: dict[str, Any] = {
    "name": "mine",
    "model": "deit_tiny_patch16_224",
    "weights": "scratch",
    "model_args": {"patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2},
    "image_size": 16,
    "data": "digits",
    "flops": ["50%"],
    "space": "smoke",
    "trials": 4,
    "epochs": 2.0,
    "base_epochs": 1.0,
    "batch_size": 64,
    "final_share": 0.0,
    "speed": "none",
    "forms": "none",
}
"""A real search of about a minute, most of which is the start of its processes: nothing in it only takes time afterwards."""

SMALL = SPEC | {"trials": 2, "epochs": 1.0, "base_epochs": 1.0}
"""As small as a search can be: almost all of its time is the start of its processes."""

LASTING = SPEC | {"epochs": 30.0}
"""The same with some training, as jobs have: how much longer it takes with a fault does not only say how long processes take to start."""

_WHOLE = LASTING | {"scheduler": "none"}
"""Nothing is pruned: which trials would be depends on their order, and so the job's length would depend on the fault."""

JOBS = {"lasting": LASTING, "longer": _WHOLE | {"epochs": 100.0}, "longest": _WHOLE | {"epochs": 400.0}}
"""By the names that rows have of them. The second and the third one take some two and six times as long as the first, for faults that
cost half a minute, such as the start of a driver, and up to three minutes, such as a lease or a cluster that begins anew."""

# Between two looks at the job.
_LOOK_SECONDS = 0.25
PATIENCE = {"lasting": 600.0, "longer": 1200.0, "longest": 3000.0}
"""Seconds that each of JOBS may take with a fault. Without one they take some 120, 310 and 1100 s on two slow cores."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """`seconds` from submitting to the end, and `phases` those in each state; `doubled` are jobs for one submit beyond the first,
    trials that ended twice, and events of a driver that had lost the job to the next attempt's.
    """

    state: str
    attempts: int
    lost: int
    doubled: int
    seconds: float
    told: list[str]
    phases: dict[str, float]
    trials: dict[str, int]
    asked: int


class User:
    """`key` is an API key, `spec` has a name of its own among the user's jobs; under an earlier `idempotency_key` it is the earlier job.
    The job is waited for until `patience` seconds after its submit.

    `told` are the reasons, failures and refusals in the order in which they were seen first, and what `until_heard` has waited for.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        patience: float,
        spec: dict[str, Any] = SPEC,
        idempotency_key: str | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._spec, self.name, self._patience = spec, str(spec["name"]), patience
        self.http = httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False)
        self.told: dict[str, None] = {}
        self.job: dict[str, Any] = {}
        self.later: list[str] = []
        """Jobs of others, which are to be cancelled when the fault is over."""
        self._headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._began = self._ended_at = 0.0

    def submit(self) -> None:
        """Again until there is an answer, and under the same idempotency key, as the client does."""
        until(self._ready, "a planner")
        self._began = time.monotonic()
        self.job = until(self._submitted, "an answer to the submit")
        self._watcher.start()

    def until_trials(self, count: int) -> None:
        until(
            lambda: self.job["progress"]["trials_ended"] >= count or self.ended or None, f"{count} trials", seconds=self._left()
        )

    def until_ended(self) -> None:
        until(lambda: self._ended_at or None, "the job's end", seconds=self._left())

    def _left(self) -> float:
        return max(0.0, self._began + self._patience - time.monotonic())

    def before_end(self, found: Callable[[], T | None], what: str) -> T:
        """What `found` gives as soon as it gives anything; it may ask the API, and asks again where that is away. Raises TimeoutError where
        the job ends first."""

        def now() -> T | None:
            # Asked before: what the job has come to by its end is found after it.
            ended = self.ended
            try:
                answer = found()
            except httpx.HTTPError:
                return None
            if answer is None and ended:
                raise TimeoutError(f"the job has ended without {what}")
            return answer

        return until(now, what, seconds=self._left())

    def heard(self) -> int:
        """The number of the job's last event so far."""
        events = self._events()
        return int(events[-1]["seq"]) if events else 0

    def until_heard(self, text: Callable[[dict[str, Any]], str | None], what: str, *, after: int = 0) -> str:
        """The first text that `text` makes of one of the job's events behind number `after`, which `told` has then, too. Raises
        TimeoutError where the job ends without one."""

        def first() -> str | None:
            nonlocal after
            events = self._events(after=after)
            after = events[-1]["seq"] if events else after
            return next(filter(None, map(text, events)), None)

        told = self.before_end(first, what)
        self._note(told)
        return told

    def cancel_later(self) -> None:
        for job_id in self.later:
            until(lambda job_id=job_id: self._cancelled(job_id), "a cancellation")

    def close(self) -> None:
        self._stop.set()
        if self._watcher.is_alive():
            self._watcher.join()
        self.http.close()

    def verdict(self) -> Verdict:
        """When the job has ended."""
        self.until_ended()
        # As the watcher has seen it: the fault may have lasted longer than the job.
        seconds = self._ended_at - self._began
        self._stop.set()
        self._watcher.join()
        again = until(self._submitted, "an answer to the same submit")
        jobs = self._get(f"/v1/jobs?label={self.name}")["jobs"]
        events = self._events()
        ended = Counter(event["data"]["trial"] for event in events if event["type"] == "trial_ended")
        trials = self._get(f"/v1/jobs/{self.job['id']}/trials")["trials"]
        kept = {trial["number"] for trial in trials if trial["state"] != "running"}
        whole = self.job["state"] == "SUCCEEDED" and len(self.job["result"]["models"]) == len(self._spec["flops"])
        return Verdict(
            state=self.job["state"],
            attempts=self.job["attempt"],
            lost=int(not whole) + len(ended.keys() - kept),
            doubled=len(jobs) - 1 + int(again["id"] != self.job["id"]) + sum(ended.values()) - len(ended) + overtaken(events),
            seconds=round(seconds, 1),
            told=list(self.told),
            phases=phases(events),
            trials=dict(Counter(trial["state"] for trial in trials)),
            asked=self._spec["trials"],
        )

    @property
    def ended(self) -> bool:
        return self.job["state"] in ("SUCCEEDED", "FAILED", "CANCELLED")

    def _ready(self) -> bool | None:
        try:
            return self.http.post("/v1/plans", json=self._spec).status_code != 503 or None
        except httpx.HTTPError:
            return None

    def _submitted(self) -> dict[str, Any] | None:
        try:
            answer = self.http.post("/v1/jobs", json=self._spec, headers=self._headers)
        except httpx.HTTPError:
            return None
        found: dict[str, Any] | None = answer.json() if answer.is_success else None
        return found

    def _cancelled(self, job_id: str) -> bool | None:
        try:
            return self.http.post(f"/v1/jobs/{job_id}:cancel").is_success or None
        except httpx.HTTPError:
            return None

    def _get(self, path: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.http.get(path).raise_for_status().json()
        return answer

    def _events(self, *, after: int = 0) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while page := self._get(f"/v1/jobs/{self.job['id']}/events?limit=1000&after={found[-1]['seq'] if found else after}")[
            "events"
        ]:
            found += page
        return found

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        try:
            answer = self.http.get(f"/v1/jobs/{self.job['id']}")
        except httpx.HTTPError as error:
            self._note(f"no answer ({type(error).__name__})")
            return
        if not answer.is_success:
            self._note(f"{answer.status_code}: {answer.json()['detail']}")
            return
        self.job = answer.json()
        if self.job["failure"] is not None:
            self._note(f"{self.job['state']}: {self.job['failure']['message']}; next: {self.job['failure']['next']}")
        elif self.job["reason"] is not None:
            self._note(f"{self.job['state']}: {self.job['reason']}")
        if self.ended and not self._ended_at:
            self._ended_at = time.monotonic()

    def _note(self, text: str) -> None:
        text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.+]+", "TIME", text.replace(self.job["id"], "ID"))
        self.told.setdefault(text)


def overtaken(events: list[dict[str, Any]]) -> int:
    """How many events an attempt has written after a later one has written its first."""
    # A request to cancel is no attempt's.
    attempts = [event["data"]["attempt"] for event in events if "attempt" in event["data"]]
    return sum(attempt < latest for attempt, latest in zip(attempts, itertools.accumulate(attempts, max), strict=True))


def phases(events: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds in each state, of all attempts together."""
    changes = [(event["data"]["state"], event["at"]) for event in events if event["type"] == "state"]
    found = dict[str, float]()
    for (state, began), (_, ended) in itertools.pairwise(changes):
        passed = datetime.datetime.fromisoformat(ended) - datetime.datetime.fromisoformat(began)
        found[state] = round(found.get(state, 0.0) + passed.total_seconds(), 1)
    return found
