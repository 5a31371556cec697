"""The output folder: its layout, and whether a search can use it.

job.json, autoslim.db, mlflow.db     the job, its store and its local MLflow
models/<budget>/                     the finished models
trials.parquet, front.parquet        one row a trial; rebuilt from the store
front.html, report.html              the same as pages, with what is known of the models
environment.json                     versions and resources of the last attempt, and its prepared images
earlier.json                         what is reused from earlier searches
webhook.json                         notifications that wait, and the ids of those that were delivered
cache/                               prepared images, results that trials share, the adapted dense model, or the stacks where that hung
trials/<recipe key>/                 checkpoint and model of each trial, and the stacks of one that hung
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

from autoslim.core.files import write_atomically
from autoslim.core.job import SearchJob
from autoslim.core.record import Record
from autoslim.errors import OutputError

_PROBE = ".writable"


@dataclasses.dataclass(frozen=True)
class RunFolder:
    root: Path

    @property
    def job_file(self) -> Path:
        return self.root / "job.json"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def base(self, digest: str) -> Path:
        return self.cache / f"base-{digest}"

    @property
    def shared(self) -> Path:
        """Results that trials share."""
        return self.cache / "shared"

    @property
    def latency(self) -> Path:
        """The table that the job's latencies are predicted from."""
        return self.cache / "latency.json"

    def write_latency(self, table: Record) -> None:
        write_atomically(self.latency, table.to_json(indent=1))

    @property
    def warm_start(self) -> Path:
        """What the search takes from earlier ones (`--reuse`), written before its first trial."""
        return self.root / "earlier.json"

    @property
    def report(self) -> Path:
        """Everything that there is to know of the search, as one page."""
        return self.root / "report.html"

    @property
    def environment(self) -> Path:
        """With what the last attempt ran."""
        return self.root / "environment.json"

    @property
    def webhook(self) -> Path:
        """The outbox of `--webhook`."""
        return self.root / "webhook.json"

    @property
    def given(self) -> Path:
        """A model or data that the caller had as objects."""
        return self.cache / "given"

    @property
    def trials(self) -> Path:
        return self.root / "trials"

    def trial(self, key: str) -> Path:
        return self.trials / key

    def model(self, label: str) -> Path:
        """`label` is that of a parsed budget: digits and a unit, which cannot lead out of the folder."""
        return self.root / "models" / label

    def finished_models(self) -> list[Path]:
        """The folders in `models/` that hold a model, by their labels; one without a configuration is not complete yet."""
        return sorted(path.parent for path in (self.root / "models").glob("*/config.json"))

    def read_job(self) -> SearchJob:
        """Raises OutputError when the folder holds no search."""
        if not self.job_file.is_file():
            raise OutputError(f"{self.root} holds no search: {self.job_file} does not exist")
        return SearchJob.from_json(self.job_file.read_text())

    def write_job(self, job: SearchJob) -> None:
        write_atomically(self.job_file, job.to_json(indent=1) + "\n")

    def claim(self, *, need: int, resume: bool) -> None:
        """Creates the folder for a search that writes about `need` bytes.

        Raises:
            OutputError: when the folder cannot be written, has too little space, or holds another search already.
        """
        if not resume and self.job_file.exists():
            raise OutputError(f"{self.root} holds a search already; add --resume to continue it, or choose another --output")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / _PROBE
            probe.write_bytes(os.urandom(4096))
            probe.unlink()
        except OSError as error:
            raise OutputError(f"output folder {self.root} cannot be written: {error.strerror}") from error
        free = shutil.disk_usage(self.root).free
        if free < need:
            raise OutputError(
                f"output folder {self.root} has {free / 1e9:.2f} GB free; this search needs about {need / 1e9:.2f} GB"
            )
