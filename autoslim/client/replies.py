"""The service's responses as values. Fields that a newer service adds are kept as extra attributes."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import pydantic

from autoslim.core.result import Measurements, measurement_fields

ENDED = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})
"""The states in which a job no longer changes."""


class Reply(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="allow", protected_namespaces=())


class Failure(Reply):
    """Why a job failed; `next` is the command that helps."""

    failure_class: str
    message: str
    next: str | None = None


class BestTrial(Reply):
    """The best trial within a budget so far. `accuracy` is the job's `score` on the validation images, `budget_share` flops / budget."""

    trial: int
    method: str
    model: str | None = None
    accuracy: float
    flops: int
    budget_share: float


class Progress(Reply):
    """`best` is the best trial so far, by budget label."""

    trials_ended: int = 0
    trials_total: int | None = None
    best: dict[str, BestTrial] = {}


if TYPE_CHECKING:

    class MeasuredReply(Reply, Measurements):  # type: ignore[misc]
        """A reply with a trial's measurements."""

else:
    # The fields of `Measurements`, so that a new one needs no change here.
    MeasuredReply = pydantic.create_model(
        "MeasuredReply", __base__=Reply, **{name: (kind | None, None) for name, (kind, _) in measurement_fields().items()}
    )


class SelectedModel(MeasuredReply):  # type: ignore[misc]
    """The chosen model of one budget, with its trial's measurements. Accuracies are the job's `score`, `budget_share` is flops / budget."""

    label: str
    budget: int
    budget_share: float
    trial: int
    method: str
    model: str | None = None
    test_accuracy: float
    dense_test_accuracy: float


class Dense(Reply):
    """The dense model fine-tuned on the data; its accuracy on the validation images, or 1 where features are compared with its own."""

    flops: int
    accuracy: float


class SearchCost(Reply):
    """The cost of all attempts, except `seconds`: the wall time of the last one. `money` is None without a price per hour."""

    seconds: float
    device: str
    device_hours: float
    bytes: int
    price: float | None = None
    money: float | None = None


class Result(Reply):
    """`missing` are the budgets, or the goal, without a model, and `why_missing` says so in a sentence each, `trials` numbers of trials
    by state. `lines` has each model's accuracy on the test images beside the dense model's and its speed, `recommended` the model that the
    numbers speak for, both in words; `reasons` say why each model was selected, `images` is the size of the splits `validation` and `test`.
    """

    models: tuple[SelectedModel, ...] = ()
    missing: tuple[str, ...] = ()
    why_missing: dict[str, str] = {}
    dense: Dense | None = None
    trials: dict[str, int] = {}
    lines: dict[str, str] = {}
    recommended: str = ""
    reasons: dict[str, str] = {}
    images: dict[str, int] = {}
    cost: SearchCost | None = None


class JobReply(Reply):
    """A job at the time of the request. `score` is what its trials are compared by, in all fields that are called accuracy: `accuracy`, a
    top-1 share, or `agreement` with the dense model's features.
    """

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
    score: str = "accuracy"
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


class Trial(MeasuredReply):  # type: ignore[misc]
    """A trial with its measurements. `target` is the label of the budget that the recipe was solved for, or `free`."""

    number: int
    state: str
    target: str
    origin: str
    method: str
    model: str | None = None
    steps: tuple[dict[str, Any], ...] = ()
    budget: int
    duplicate_of: int | None = None
    error_class: str | None = None
    error: str | None = None


class TrialPage(Reply):
    """`score` is what the trials are compared by, as in `JobReply`."""

    score: str = "accuracy"
    trials: tuple[Trial, ...]
    next_page_token: str | None = None


class Event(Reply):
    """`seq` increases over the events of all jobs; `type` is state, message, trial_began, trial_reported, trial_ended or best.

    `data` has the `attempt` that wrote it, where one did; an event that an earlier version wrote has it in a state only.
    """

    seq: int
    type: str
    at: datetime.datetime | None = None
    data: dict[str, Any] = {}


class EventPage(Reply):
    events: tuple[Event, ...]
    next_after: int | None = None


class Artifact(Reply):
    """A file of a job; `name` is its path with forward slashes, `bytes` its size, `sha256` hexadecimal."""

    name: str
    bytes: int
    sha256: str
    media_type: str = "application/octet-stream"


class ArtifactList(Reply):
    artifacts: tuple[Artifact, ...]
