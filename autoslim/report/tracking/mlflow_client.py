"""`TrackingServer`: the calls to MLflow that the sync needs, with bounded waiting and one kind of error.

Only `MlflowClient` is used, so that nothing of a user's own MLflow state (active run, tracking URI) is touched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from autoslim.core.job import SearchJob
from autoslim.core.urls import hide_password
from autoslim.errors import RequestError, UnavailableError
from autoslim.report.tracking.datasets import LoggedSplit
from autoslim.report.tracking.description import EXPERIMENT_NOTE
from autoslim.report.tracking.registry import VersionCandidate, register
from autoslim.report.tracking.run_content import Point, RunContent
from autoslim.storage.faults import without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient

_T = TypeVar("_T")

_log = logging.getLogger(__name__)

_NO_REGISTRY = (
    "FEATURE_DISABLED",
    "ENDPOINT_NOT_FOUND",
    "NOT_IMPLEMENTED",
    "PERMISSION_DENIED",
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
)

_NO_DATASETS = ("FEATURE_DISABLED", "ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED")

_LIMITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for every run that ends
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_MOST_METRICS, _MOST_TEXTS = 1000, 100  # the most that MLflow accepts in one batch


class RunGoneError(Exception):
    """The run was deleted in MLflow."""


@dataclasses.dataclass(frozen=True)
class FoundRun:
    run_id: str
    has_params: bool


class TrackingServer:
    """`artifacts` is where a new experiment keeps its files; None leaves that to the server."""

    def __init__(self, uri: str, experiment: str, *, artifacts: str | None) -> None:
        self.uri = hide_password(uri)
        self._real_uri = uri
        self._experiment_name = experiment
        self._artifacts = artifacts
        self._client: MlflowClient | None = None
        self._experiment_id = ""

    def connect(self) -> None:
        """Imports MLflow, which needs seconds, and finds or creates the experiment. Does nothing the second time."""
        if self._experiment_id:
            return
        # MLflow sends usage data unless this is set, and the user of a search has not agreed to that.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        with self._calling():
            from mlflow import MlflowClient

            # A new database is announced table by table, and one that is down attempt by attempt.
            for noisy in ("alembic", "mlflow.store.db.utils"):
                logging.getLogger(noisy).setLevel(logging.ERROR)
            # The input example of every registered model is announced in the middle of the search's summary.
            logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
            self._client = MlflowClient(tracking_uri=self._real_uri)
            self._experiment_id = self._find_experiment(self._client)

    def find_runs(self, uid: str) -> dict[str, FoundRun]:
        """A job's runs by entity; known only by their tags after a crash between creating and recording them."""
        found: dict[str, FoundRun] = {}
        token = None
        while True:
            with self._calling():
                page = self._connected.search_runs(
                    [self._experiment_id], filter_string=f"tags.`autoslim.uid` = '{uid}'", max_results=1000, page_token=token
                )
            for run in page:
                # Newest first, so the oldest stays.
                found[run.data.tags.get("autoslim.entity", "")] = FoundRun(run.info.run_id, has_params=bool(run.data.params))
            token = page.token
            if not token:
                return found

    def create_run(self, content: RunContent) -> str:
        """With its tags, and nothing else yet."""
        with self._calling():
            run = self._connected.create_run(self._experiment_id, content.started, content.tags, content.name)
            return str(run.info.run_id)

    def exists(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        with self._calling():
            try:
                run = self._connected.get_run(run_id)
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return False
                raise
        return bool(run.info.lifecycle_stage == "active" and run.info.experiment_id == self._experiment_id)

    def log(self, run_id: str, *, points: Sequence[Point], params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """One request, unless there is more than MLflow accepts in one."""
        from mlflow.entities import Metric, Param, RunTag

        metrics = _batches([Metric(p.name, p.value, p.timestamp, p.step) for p in points], _MOST_METRICS - 2 * _MOST_TEXTS)
        texts = _batches([Param(name, value) for name, value in params.items()], _MOST_TEXTS)
        marks = _batches([RunTag(name, value) for name, value in tags.items()], _MOST_TEXTS)
        for some, named, marked in itertools.zip_longest(metrics, texts, marks, fillvalue=()):
            with self._calling(run_id):
                self._connected.log_batch(run_id, metrics=some, params=named, tags=marked)

    def set_status(self, run_id: str, status: str, ended: int | None) -> None:
        with self._calling(run_id):
            if status == "RUNNING":
                self._connected.update_run(run_id, status=status)
            else:
                self._connected.set_terminated(run_id, status=status, end_time=ended)

    def upload(self, run_id: str, folder: Path) -> None:
        with self._calling(run_id):
            self._connected.log_artifacts(run_id, str(folder))

    def log_inputs(self, run_id: str, splits: Sequence[LoggedSplit]) -> None:
        """The run's datasets; what is logged already stays as it is. A server that knows none is logged as a warning."""
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.exceptions import MlflowException
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        inputs = [
            DatasetInput(
                Dataset(split.name, split.digest, split.source_type, split.source, profile=split.profile),
                [InputTag(MLFLOW_DATASET_CONTEXT, split.context)],
            )
            for split in splits
        ]
        with self._calling(run_id):
            try:
                self._connected.log_inputs(run_id, datasets=inputs)
            except MlflowException as error:
                if error.error_code not in _NO_DATASETS:
                    raise
                _log.warning("MLflow at %s logs no datasets", self.uri)

    def register(self, job: SearchJob, model: VersionCandidate, run_id: str) -> None:
        """A version of the job's registered model, and aliases at it; a server without a registry is logged as a warning."""
        from mlflow.exceptions import MlflowException

        with self._calling(run_id):
            try:
                register(self._connected, job, model, run_id=run_id)
            except MlflowException as error:
                if error.error_code not in _NO_REGISTRY:
                    raise
                reason = " ".join(without_secrets(str(error)).split())[:300]
                _log.warning("MLflow at %s did not register the model for %s: %s", self.uri, model.label, reason)

    @property
    def _connected(self) -> MlflowClient:
        assert self._client is not None, "connect comes first"
        return self._client

    def _find_experiment(self, client: MlflowClient) -> str:
        name = self._experiment_name
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            tags = {"mlflow.note.content": EXPERIMENT_NOTE}
            return str(client.create_experiment(name, artifact_location=self._artifacts, tags=tags))
        if experiment.lifecycle_stage != "active":
            raise RequestError(f"the experiment {name!r} at {self.uri} is deleted; restore it there, or choose another name")
        return str(experiment.experiment_id)

    @contextlib.contextmanager
    def _calling(self, run_id: str | None = None) -> Iterator[None]:
        """Raises UnavailableError where the server cannot be reached; a bug is raised as it is."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except MlflowException as error:
            refused = error.error_code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST")
            if refused and run_id is not None:
                if not self.exists(run_id):
                    raise RunGoneError(run_id) from error
                raise
            raise self._unreachable(error) from None
        except (OSError, SQLAlchemyError, ImportError) as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> UnavailableError:
        reason = " ".join(without_secrets(str(error)).split())
        return UnavailableError(f"MLflow at {self.uri} cannot be used: {reason[:300]}")


@contextlib.contextmanager
def bounded_requests() -> Iterator[None]:
    """MLflow reads its timeouts from the environment alone, and by default waits many minutes; what the user has set stays."""
    ours = [name for name in _LIMITS if name not in os.environ]
    os.environ.update({name: _LIMITS[name] for name in ours})
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _batches(items: Sequence[_T], size: int) -> list[list[_T]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
