"""What the service answers, as values. A newer service may say more than is known here: that is kept, not refused."""

from __future__ import annotations

import datetime
from typing import Any

import pydantic

ENDED = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})
"""A job in one of these states never changes again."""


class Reply(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="allow", populate_by_name=True, protected_namespaces=())


class Failure(Reply):
    """`kind` is the class of failure, `next` the command or the change that helps."""

    kind: str = pydantic.Field(alias="class")
    message: str
    next: str | None = None


class Progress(Reply):
    """`best` is the best validation accuracy so far within each budget."""

    trials_done: int = 0
    trials: int | None = None
    best: dict[str, float] = {}


class SelectedModel(Reply):
    """One model that was handed over; FLOPs are multiply-accumulates, accuracies top-1 shares."""

    label: str
    budget: int
    trial: int
    method: str
    flops: int
    params: int
    validation_accuracy: float
    test_accuracy: float
    dense_test_accuracy: float


class Dense(Reply):
    """The model before it is slimmed, adapted to the data; its accuracy on the validation split."""

    flops: int
    accuracy: float


class Cost(Reply):
    """Of all attempts, but for the `seconds` of wall time, which are the last one's; `money` where the request had a price."""

    seconds: float
    device: str
    device_hours: float
    bytes: int
    price: float | None = None
    money: float | None = None


class Result(Reply):
    """`missing` are the budgets that no trial met; `trials` are numbers of trials by state; `reasons` say why each model was taken."""

    models: tuple[SelectedModel, ...] = ()
    missing: tuple[str, ...] = ()
    dense: Dense | None = None
    trials: dict[str, int] = {}
    reasons: dict[str, str] = {}
    cost: Cost | None = None


class JobReply(Reply):
    """A job as it stood when it was asked for."""

    id: str
    name: str | None = None
    state: str
    reason: str | None = None
    created_at: datetime.datetime
    updated_at: datetime.datetime | None = None
    started_at: datetime.datetime | None = None
    ended_at: datetime.datetime | None = None
    attempt: int = 0
    queue_position: int | None = None
    spec: dict[str, Any] = {}
    progress: Progress = Progress()
    failure: Failure | None = None
    result: Result | None = None
    links: dict[str, str | None] = {}

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class JobPage(Reply):
    jobs: tuple[JobReply, ...]
    next_page_token: str | None = None


class Trial(Reply):
    """FLOPs are multiply-accumulates per image, accuracies shares on the validation split; `target` is a budget's label or `free`."""

    number: int
    state: str
    target: str
    origin: str
    method: str
    steps: tuple[dict[str, Any], ...] = ()
    budget: int
    accuracy: float | None = None
    flops: int | None = None
    params: int | None = None
    epochs: float | None = None
    seconds: float | None = None
    duplicate_of: int | None = None
    error_class: str | None = None
    error: str | None = None


class TrialPage(Reply):
    trials: tuple[Trial, ...]
    next_page_token: str | None = None


class Event(Reply):
    """`seq` rises over all jobs; `type` is state, message, trial_began, trial_reported, trial_ended or best."""

    seq: int
    type: str
    at: datetime.datetime | None = None
    data: dict[str, Any] = {}


class EventPage(Reply):
    events: tuple[Event, ...]
    next_after: int | None = None


class Artifact(Reply):
    """A file of a job; `name` is its path, with forward slashes."""

    name: str
    bytes: int
    sha256: str
    media_type: str = "application/octet-stream"


class ArtifactList(Reply):
    artifacts: tuple[Artifact, ...]
