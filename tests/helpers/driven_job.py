"""Takes a queued job through its states, as a driver does; nothing is trained."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from helpers.running_service import RunningService

from autoslim.store import Failure, FailureClass, QueueState

MODEL = {
    "label": "50%",
    "budget": 479_472,
    "folder": "models/50%",
    "trial": 3,
    "method": "vit_slim",
    "flops": 478_000,
    "params": 30_000,
    "budget_share": 478_000 / 479_472,
    "accuracy": 0.912,
    "test_accuracy": 0.905,
    "dense_test_accuracy": 0.941,
}
RESULT = {"models": [MODEL], "missing": [], "dense": {"flops": 958_944, "accuracy": 0.944}, "trials": {"complete": 2}}


class DrivenJob:
    def __init__(self, service: RunningService, job_id: str) -> None:
        self.service, self.id = service, job_id
        self.folder = service.settings.folder(job_id)
        while True:
            # Jobs of other tests, which nobody drives, are taken on the way.
            claim = service.queue.claim("test", 600)
            assert claim is not None, "the job is not queued"
            if claim.id == job_id:
                self.claim = claim
                return

    def advance(self, *states: str) -> None:
        for state in states:
            self.service.queue.transition(self.claim, QueueState(state))

    def tell(self, type: str, **data: Any) -> None:
        self.service.queue.record(self.claim, type, data)

    def search(self) -> None:
        """Up to the last trial."""
        self.advance("PREPARING", "SEARCHING")
        self.tell("trial_ended", trial=0, method="sit", target="50%", state="complete", accuracy=0.88, flops=477_000)
        self.tell("best", label="50%", accuracy=0.88, flops=477_000, trial=0, method="sit")
        self.tell("trial_ended", trial=1, method="dps", target="50%", state="failed", error="the loss is nan")

    def succeed(self, **changes: Any) -> None:
        self.advance("FINALIZING")
        self.service.queue.transition(self.claim, QueueState.SUCCEEDED, result=json.dumps({**RESULT, **changes}))

    def fail(
        self, kind: str = "INFEASIBLE", message: str = "no trial was within 50%", next: str = "autoslim plan job.yaml"
    ) -> None:
        failure = Failure(failure_class=FailureClass(kind), message=message, next=next)
        self.service.queue.transition(self.claim, QueueState.FAILED, failure=failure)

    def log(self, text: str) -> None:
        file = self.folder / "logs" / f"attempt-{self.claim.attempt}.log"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as log:
            log.write(text)
        with file.with_suffix(".jsonl").open("a", encoding="utf-8") as lines:
            lines.writelines(json.dumps({"message": line}) + "\n" for line in text.splitlines())

    def finalize_models(self, files: dict[str, bytes], label: str = "50%") -> Path:
        folder = self.folder / "models" / label
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
        (folder / "SHA256SUMS").write_text(sums)
        return folder
