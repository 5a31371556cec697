"""`KeptOutput`: the driver's side of an output in a store (`--output s3://...`), so that another machine can go on with the search.

The driver works in a folder of its own (`work_folder`). Its state, the database first, is put into the store at every trial's start and
end, and soon after every epoch; what nodes make, they put there themselves. One driver at a time has the lease on the output.
"""

from __future__ import annotations

import atexit
import contextlib
import shutil
import sqlite3
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from autoslim.core.folder_lock import LOCK
from autoslim.core.job import SearchJob
from autoslim.core.result import EpochReport, TrialResult
from autoslim.core.run_folder import RunFolder
from autoslim.errors import OutputError, StorageError, UnavailableError
from autoslim.storage.lease import StorageLease
from autoslim.storage.mirror import NO_MIRROR, Mirror
from autoslim.storage.objects import objects_below, read_object, write_object
from workers.progress.callbacks import SearchCallback, SearchInfo

DATABASE = "autoslim.db"
STATE = (
    "job.json",
    "earlier.json",
    "environment.json",
    "webhook.json",
    "cache/latency.json",
    "trials.parquet",
    "front.parquet",
    "front.html",
    "report.html",
)
"""Files of the driver beside the database. MLflow's own database is none: it is filled again from the store's."""

_SMALL_BYTES = 2**20
"""Configurations, cards and pictures; weights are larger."""

_ATTEMPT = ".attempt"
"""Names the driver that has worked last, in the store and in a driver's folder: where both are equal, the folder has all of the state."""


class KeptOutput(SearchCallback):
    """Without a store it does nothing. Its methods raise OutputError where another driver has taken over, StorageError where the store
    cannot be written, and UnavailableError where it does not answer: the search ends then, and can be resumed.
    """

    def __init__(self, mirror: Mirror, lease: StorageLease | None = None) -> None:
        self.mirror, self._lease = mirror, lease
        self._stamps: dict[str, tuple[int, int]] = {}
        self._writing = threading.Lock()
        self._background = ThreadPoolExecutor(1, thread_name_prefix="autoslim-state")
        self._pending: Future[None] | None = None

    def keep(self) -> None:
        """Puts what has changed of the state into the store."""
        if self.mirror.uri is None:
            return
        assert self._lease is not None
        with self._writing:
            self._lease.check()
            self._keep_database(self.mirror.root / DATABASE)
            for name in STATE:
                self._keep_changed(self.mirror.root / name)

    def on_search_start(self, search: SearchInfo) -> None:
        self.keep()

    def on_trial_start(self, result: TrialResult, target: str) -> None:
        self.keep()

    def on_trial_end(self, result: TrialResult, target: str) -> None:
        self.keep()

    def on_search_end(self, reason: str, refinements: int) -> None:
        self.keep()

    def on_epoch_end(self, result: TrialResult, report: EpochReport) -> None:
        """In the background: of many trials side by side there are many reports, and Tune waits for each."""
        if self.mirror.uri is None or (self._pending is not None and not self._pending.done()):
            return
        if self._pending is not None:
            # Raises what the last one has.
            self._pending.result()
        self._pending = self._background.submit(self.keep)

    def close(self) -> None:
        self._background.shutdown()

    def _keep_database(self, path: Path) -> None:
        # With --storage it is elsewhere.
        if not path.is_file():
            return
        with tempfile.TemporaryDirectory(prefix="autoslim-state-") as folder:
            copy = Path(folder) / DATABASE
            # A copy of one moment: the file itself is written to meanwhile, and a part of it is in its log.
            with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(copy)) as target:
                source.backup(target)
            self.mirror.keep_copy(copy, path)

    def _keep_changed(self, path: Path) -> None:
        if not path.is_file():
            return
        found = path.stat()
        stamp = (found.st_mtime_ns, found.st_size)
        if self._stamps.get(str(path)) != stamp:
            self.mirror.keep_file(path)
            self._stamps[str(path)] = stamp


@contextlib.contextmanager
def kept_output(job: SearchJob, *, resume: bool, tell: Callable[[str], None] = lambda line: None) -> Iterator[KeptOutput]:
    """With the state of the output in the driver's folder, for as long as this driver has the lease on it.

    Raises:
        OutputError: where another driver works there; the output holds a search already, or without `resume` none.
        StorageError, UnavailableError: where the store cannot be read or written.
    """
    mirror = Mirror.of(job.output_uri or "")
    if mirror.uri is None:
        yield KeptOutput(NO_MIRROR)
        return
    lease = mirror.lease("driver")
    lease.wait(
        f"output {mirror.uri}: another autoslim search is running there; wait for its end or choose another --output", tell=tell
    )
    kept = KeptOutput(mirror, lease)
    try:
        _begin(mirror, resume=resume)
        yield kept
    finally:
        kept.close()
        # A claim that cannot be deleted is dead when it is old; the search's own end, or its error, counts.
        with contextlib.suppress(StorageError, UnavailableError):
            lease.release()


def _begin(mirror: Mirror, *, resume: bool) -> None:
    """Makes the driver's folder ready, and names this driver as the one that works."""
    assert mirror.uri is not None
    job, last = read_object(mirror.uri / "job.json"), read_object(mirror.uri / _ATTEMPT)
    if job is not None and not resume:
        raise OutputError(f"{mirror.uri} holds a search already; add --resume to continue it, or choose another --output")
    if job is None and resume:
        raise OutputError(f"{mirror.uri} holds no search: it has no job.json")
    mirror.root.mkdir(parents=True, exist_ok=True)
    marker = mirror.root / _ATTEMPT
    # Another driver, on another machine perhaps, has worked since; or what is here is of an output that was deleted.
    if job is None or not marker.is_file() or last != marker.read_bytes():
        _clear(mirror.root)
        fetch_state(mirror)
    attempt = uuid.uuid4().hex
    write_object(mirror.uri / _ATTEMPT, attempt)
    marker.write_text(attempt)


def fetch_state(mirror: Mirror) -> None:
    """Brings the state of the output into the folder."""
    mirror.root.mkdir(parents=True, exist_ok=True)
    for name in (DATABASE, *STATE):
        mirror.fetch_file(mirror.root / name)


def _clear(root: Path) -> None:
    """All but the lock, which this process has, and objects that its caller has given, which were put there for this search."""
    given = RunFolder(root).given
    for path in (*root.iterdir(), *given.parent.glob("*")):
        if path.name == LOCK or given in (path, *path.rglob("*")):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def viewed_folder(uri: str) -> Path:
    """A folder with the state of the search at `uri`, and the small files of its models, for commands that only read it. Unless it is that
    of a driver on this machine, it is deleted when this process ends.

    Raises:
        OutputError: where it holds no search.
        StorageError, UnavailableError: where the store cannot be read.
    """
    mirror = Mirror.of(uri)
    assert mirror.uri is not None
    marker = mirror.root / _ATTEMPT
    if marker.is_file() and marker.read_bytes() == read_object(mirror.uri / _ATTEMPT):
        # A driver of this machine is the last one: its own folder has everything, and it may be working in it.
        return mirror.root
    # Of this process alone: another command would take the database away that this one reads.
    view = Mirror(Path(tempfile.mkdtemp(prefix="autoslim-view-")), mirror.uri)
    atexit.register(shutil.rmtree, view.root, ignore_errors=True)
    fetch_state(view)
    for info in objects_below(mirror.uri / "models", recursive=True):
        if info.size < _SMALL_BYTES:
            view.fetch_file(view.root / info.path.removeprefix(f"{mirror.uri.path}/"))
    return view.root


def read_kept_job(uri: str) -> SearchJob:
    """The job of the search at `uri`, for this machine.

    Raises:
        OutputError: where it holds no search.
        StorageError, UnavailableError: where the store cannot be read.
    """
    mirror = Mirror.of(uri)
    assert mirror.uri is not None
    content = read_object(mirror.uri / "job.json")
    if content is None:
        raise OutputError(f"{mirror.uri} holds no search: it has no job.json")
    return SearchJob.from_json(content.decode()).replace(output=str(mirror.root), output_uri=mirror.address)


def read_job(folder: Path, uri: str | None) -> SearchJob:
    """The job of a search that is to be resumed: of the output at `uri`, or without one of that in `folder`.

    Raises:
        OutputError: where there is none, or the folder is a copy of an output that lies at a URI.
        StorageError, UnavailableError: where the store cannot be read.
    """
    if uri is not None:
        return read_kept_job(uri)
    job = RunFolder(folder).read_job()
    if job.output_uri is not None:
        raise OutputError(f"{folder} has a part of the search at {job.output_uri}; give that URI instead of the folder")
    return job
