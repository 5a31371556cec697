"""`MlflowSync`: logs in MLflow what the store has and MLflow has not, however far an earlier sync came."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoslim.core.result import ParetoFront
from autoslim.core.run_folder import RunFolder
from autoslim.report import render_front
from autoslim.report.picture import PAGE, PNG
from autoslim.report.tracking.datasets import logged_splits
from autoslim.report.tracking.mlflow_client import FoundRun, RunGoneError, TrackingServer, bounded_requests
from autoslim.report.tracking.places import artifacts_beside, default_tracking_uri
from autoslim.report.tracking.registry import VersionCandidate, find_candidate
from autoslim.report.tracking.run_content import Point, RunContent, epoch_points, job_content, trial_content
from autoslim.store import Store, StoredJob, StoredTrial, TrackedRun
from autoslim.store.export import write_front_parquet, write_trials_parquet

_log = logging.getLogger(__name__)

JOB = "job"


class MlflowSync:
    """Not to be shared between threads. `tracking_uri` of None is the job's own, or SQLite in its output folder."""

    def __init__(self, store: Store, job_id: str, *, tracking_uri: str | None = None, experiment: str = "autoslim") -> None:
        job = store.job(job_id).job
        uri = tracking_uri or job.tracking_uri or default_tracking_uri(job.output)
        self.output = job.output
        self._report = RunFolder(Path(job.output)).report
        self._store = store
        self._job_id = job_id
        self._score = job.dataset.score
        self._remote = TrackingServer(uri, experiment, artifacts=artifacts_beside(uri, job.output, output_uri=job.output_uri))
        # What was logged is recorded for each destination: a job may be logged to another server later.
        self._destination = hashlib.sha256(f"{self._remote.uri}\n{experiment}".encode()).hexdigest()[:16]
        self._checked = False
        self._adoptable: dict[str, FoundRun] | None = None
        self._seen: tuple[Any, ...] | None = None

    @property
    def uri(self) -> str:
        """Where the runs go, without a password."""
        return self._remote.uri

    def sync(self) -> int:
        """Logs what has not been logged yet and returns how many runs that changed; afterwards MLflow shows what the store held.

        Raises:
            UnavailableError: when MLflow cannot be reached; what was sent until then is not sent again.
        """
        fingerprint = (*self._store.fingerprint(self._job_id), _stamp(self._report))
        if fingerprint == self._seen:
            return 0
        # Until this has succeeded, the next call compares everything again.
        self._seen = None
        with bounded_requests():
            try:
                changed = self._sync()
            except RunGoneError:
                # The parent was deleted meanwhile, and is written again.
                self._checked = False
                changed = self._sync()
        self._seen = fingerprint
        return changed

    def _sync(self) -> int:
        job = self._store.job(self._job_id)
        trials = self._store.stored_trials(self._job_id)
        revisions = self._store.revisions(self._job_id)
        self._remote.connect()
        tracked = self._check(self._store.tracked(self._job_id, self._destination))
        front = {result.number for result in ParetoFront.of(trial.result for trial in trials).results}
        summary = job_content(job, trials)
        parent = tracked.get(JOB) or self._create(JOB, summary)
        changed = 0
        for trial in trials:
            number = trial.result.number
            content = trial_content(job, trial, parent=parent.run_id, pareto=number in front)
            child = tracked.get(str(number)) or self._create(str(number), content)
            changed += self._sync_trial(child, content, number, revisions.get(number, 0), find_pictures(job, number))
        # The parent comes after them, so that it never lists a trial without a run.
        changed += self._sync_job(parent, summary, job, trials)
        # Models are large, and not every server accepts them: they come last.
        return changed + sum(self._sync_models(str(number), job, find_models(job, number)) for number in set(job.chosen.values()))

    def _check(self, tracked: dict[str, TrackedRun]) -> dict[str, TrackedRun]:
        """Forgets what was logged if the parent run no longer exists: a server that was deleted or replaced is filled again."""
        if not self._checked and JOB in tracked and not self._remote.exists(tracked[JOB].run_id):
            self._store.forget_tracked(self._job_id, self._destination)
            tracked, self._adoptable = {}, None
        self._checked = True
        return tracked

    def _create(self, entity: str, content: RunContent) -> TrackedRun:
        # A process that was killed between making a run and recording it left one that is found by its tag.
        if self._adoptable is None:
            self._adoptable = self._remote.find_runs(content.tags["autoslim.uid"])
        found = self._adoptable.pop(entity, None)
        if found is not None:
            # In a folder that was moved the job's `output` is another one now than the run's.
            logged = {"params": True} if found.has_params else {}
            return self._save(TrackedRun(entity=entity, run_id=found.run_id, logged=logged))
        run_id = self._remote.create_run(content)
        return self._save(TrackedRun(entity=entity, run_id=run_id, logged={"tags": content.tags}))

    def _sync_trial(self, run: TrackedRun, content: RunContent, number: int, revision: int, pictures: list[Path]) -> bool:
        # A trial that a user has deleted in MLflow stays deleted.
        if run.logged.get("gone"):
            return False
        try:
            since, names = run.logged.get("epochs", 0), list(run.logged.get("curves", []))
            epochs = self._store.stored_epochs(self._job_id, number, since=since) if revision > since else []
            points = epoch_points(epochs, names, self._score)
            after = {"epochs": max((epoch.revision for epoch in epochs), default=since), "curves": names}
            synced = self._sync_files(run, "pictures", pictures)
            return self._log_difference(synced or run, content, points, after) or synced is not None
        except RunGoneError:
            _log.warning("trial %d of job %s was deleted in MLflow and is not logged there any more", number, self._job_id)
            self._save(run.replace(logged={"gone": True}))
            return False

    def _sync_files(self, run: TrackedRun, what: str, files: list[Path]) -> TrackedRun | None:
        """The run as it is recorded now, with these files as artifacts; None where there are no new ones of `what`."""
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
        if not files or run.logged.get(what) == digest:
            return None
        with tempfile.TemporaryDirectory(prefix="autoslim-") as folder:
            for file in files:
                shutil.copy(file, folder)
            self._remote.upload(run.run_id, Path(folder))
        return self._save(run.replace(logged=run.logged | {what: digest}))

    def _sync_models(self, entity: str, job: StoredJob, models: list[VersionCandidate]) -> bool:
        """Registers the models of trial `entity`; a server without a registry is logged once."""
        if not models:
            return False
        run = self._store.tracked(self._job_id, self._destination)[entity]
        known = run.logged.get("registered", {})
        fresh = {model.label: model for model in models if known.get(model.label) != model.digest}
        if not fresh or run.logged.get("gone"):
            return False
        for model in fresh.values():
            try:
                self._remote.register(job.job, model, run.run_id)
            except RunGoneError:
                return False
            known = {**known, model.label: model.digest}
            run = self._save(run.replace(logged=run.logged | {"registered": known}))
        return True

    def _sync_job(self, run: TrackedRun, content: RunContent, job: StoredJob, trials: Sequence[StoredTrial]) -> bool:
        run, fresh = self._sync_inputs(run, job)
        ended = [trial.to_dict() for trial in trials if trial.ended_at]
        facts = [job.chosen, None if job.base is None else job.base.to_dict(), ended]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        moved = run.logged.get("artifacts") != digest
        if moved:
            with tempfile.TemporaryDirectory(prefix="autoslim-") as folder:
                write_artifacts(Path(folder), job, trials)
                self._remote.upload(run.run_id, Path(folder))
            run = self._save(run.replace(logged=run.logged | {"artifacts": digest}))
        # The report is written when the search ends, and anew by `autoslim report`.
        reported = self._sync_files(run, "report", [self._report] if self._report.is_file() else [])
        return self._log_difference(reported or run, content, [], {}) or moved or fresh or reported is not None

    def _sync_inputs(self, run: TrackedRun, job: StoredJob) -> tuple[TrackedRun, bool]:
        """The run as it is recorded now, and whether its datasets were logged just now."""
        splits = logged_splits(job)
        digests = [split.digest for split in splits]
        if digests == run.logged.get("inputs", []):
            return run, False
        self._remote.log_inputs(run.run_id, splits)
        return self._save(run.replace(logged=run.logged | {"inputs": digests})), True

    def _log_difference(self, run: TrackedRun, content: RunContent, points: list[Point], after: dict[str, Any]) -> bool:
        """Logs the difference between `content` and what was logged, then records that it was."""
        logged = run.logged
        results = [[point.name, point.value, point.step] for point in content.points]
        new_points = [*points, *content.points] if results != logged.get("results") else points
        # MLflow refuses to change a parameter, so that parameters are sent once.
        params = {} if logged.get("params") else content.params
        old_tags = logged.get("tags", {})
        tags = {name: value for name, value in content.tags.items() if old_tags.get(name) != value}
        # Deleting a tag twice is an error in MLflow, and after a crash it is not known whether it was deleted.
        tags |= {name: "none" for name in set(old_tags) - set(content.tags)}
        after = {**logged, **after, "results": results, "params": True, "tags": content.tags, "status": content.status}
        if after == logged:
            return False
        if new_points or params or tags:
            self._remote.log(run.run_id, points=new_points, params=params, tags=tags)
        if content.status != logged.get("status", "RUNNING"):
            self._remote.set_status(run.run_id, content.status, content.ended)
        self._save(run.replace(logged=after))
        return True

    def _save(self, run: TrackedRun) -> TrackedRun:
        self._store.set_tracked(self._job_id, self._destination, run)
        return run


def _stamp(file: Path) -> tuple[int, int] | None:
    """Another one when the file has been written anew; None where there is none."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size


def find_pictures(job: StoredJob, number: int) -> list[Path]:
    """The pictures of the model that trial `number` was selected for; none before that, or where they were removed."""
    labels = [label for label, chosen in job.chosen.items() if chosen == number]
    files = [RunFolder(Path(job.job.output)).model(labels[0]) / name for name in (PAGE, PNG)] if labels else []
    return [file for file in files if file.is_file()]


def find_models(job: StoredJob, number: int) -> list[VersionCandidate]:
    """The models that trial `number` was selected for, one for each of its budgets."""
    output = RunFolder(Path(job.job.output))
    labels = [label for label, chosen in job.chosen.items() if chosen == number]
    return [model for label in labels if (model := find_candidate(output.model(label), label)) is not None]


def write_artifacts(folder: Path, job: StoredJob, trials: Sequence[StoredTrial]) -> None:
    """The front as picture, table and Parquet, and all trials as Parquet."""
    results = [trial.result for trial in trials]
    picture = render_front(job.job, job.base, results, job.chosen)
    (folder / "front.html").write_text(picture, encoding="utf-8")
    (folder / "front.json").write_text(json.dumps(_front_table(job, trials)), encoding="utf-8")
    write_front_parquet(folder / "front.parquet", job, trials)
    write_trials_parquet(folder / "trials.parquet", job, trials)


def _front_table(job: StoredJob, trials: Sequence[StoredTrial]) -> dict[str, Any]:
    """In the layout that MLflow's pages show as a table."""
    targets = {trial.result.number: trial.target for trial in trials}
    columns = [
        "trial",
        "method",
        "target",
        job.job.dataset.score.name,
        "gflops",
        "flops_share",
        "mparams",
        "selected_for",
        "knobs",
    ]
    rows = []
    for result in ParetoFront.of(trial.result for trial in trials).results:
        share = None if job.base is None else (result.flops or 0) / job.base.dense_flops
        chosen = ", ".join(label for label, number in job.chosen.items() if number == result.number)
        size = None if result.params is None else result.params / 1e6
        row = [
            result.number,
            result.recipe.title,
            targets[result.number],
            result.accuracy,
            (result.flops or 0) / 1e9,
            share,
            size,
        ]
        rows.append([*row, chosen, json.dumps(result.recipe.flat_knobs)])
    return {"columns": columns, "data": rows}
