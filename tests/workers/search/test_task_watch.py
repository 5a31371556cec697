"""Evaluations and measurements that hang are done again, and say so where they never end."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from helpers.sample_search import make_job
from helpers.tiny import CLASSES, make_dense
from ray.exceptions import NodeDiedError, RayTaskError, WorkerCrashedError

from autoslim.core.job import DatasetSpec, Resources
from autoslim.core.run_folder import RunFolder
from autoslim.core.stall_watch import StallWatch
from autoslim.data import prepare_dataset
from autoslim.data.dataset import SPLITS
from autoslim.errors import JobError, StorageError
from autoslim.models import write_folder
from autoslim.storage.mirror import NO_MIRROR, Mirror
from autoslim.training.holdout import HoldoutResult
from workers.search import finalize, goal, latency
from workers.search.finalize import evaluate_folders
from workers.search.stall_note import StallNote
from workers.search.task_watch import TaskWatch, WatchedTask, unwrapped_errors

REASON = "stalled: no step, batch or other sign of life for 60.1 minutes (--stall-minutes 60)"


def watch_of(output: Path, mirror: Mirror = NO_MIRROR, what: str = "evaluate dense model a/b on test images") -> TaskWatch:
    return TaskWatch.of(what, make_job(stall_minutes=60.0), RunFolder(output), mirror)


def leave_note(watch: TaskWatch, mirror: Mirror) -> None:
    StallNote.of_task(mirror.path(watch.place), mirror).write(REASON)


@pytest.mark.parametrize("stored", [False, True])
def test_where_the_last_try_of_a_task_hung_its_error_says_what_and_where(tmp_path: Path, stored: bool, monkeypatch) -> None:
    monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / "cache"))
    mirror = Mirror.of((tmp_path / "store").as_uri()) if stored else NO_MIRROR
    watch = watch_of(mirror.root if stored else tmp_path / "run", mirror, "evaluate a/b")
    assert watch.seconds == 3600.0
    leave_note(watch, mirror)
    with pytest.raises(JobError) as found, unwrapped_errors("it could not be evaluated", watch):
        raise WorkerCrashedError()
    place = "cache/evaluate-a-b.stalled" + (".tar" if stored else "/stacks.txt")
    assert str(found.value) == (
        f"it could not be evaluated: evaluate a/b: {REASON}; the stacks of its threads are in {place} of the output"
    )
    # Nothing of the cluster was lost, for which a service would wait.
    assert found.value.__cause__ is None


def test_an_error_of_the_task_itself_is_none_of_a_stall_that_it_has_got_over(tmp_path: Path) -> None:
    watch = watch_of(tmp_path)
    leave_note(watch, NO_MIRROR)
    own = StorageError("the store has no model")
    with pytest.raises(StorageError, match="the store has no model"), unwrapped_errors("it failed", watch):
        raise RayTaskError("evaluate", "traceback", own)


def test_a_lost_worker_without_a_note_is_a_loss_of_the_cluster(tmp_path: Path) -> None:
    with pytest.raises(JobError) as found, unwrapped_errors("it failed", watch_of(tmp_path)):
        raise WorkerCrashedError()
    assert isinstance(found.value.__cause__, WorkerCrashedError)


def test_a_lost_evaluation_is_neither_blamed_on_another_one_nor_on_what_an_earlier_search_has_left(
    tmp_path: Path, monkeypatch
) -> None:
    def submit(watch: TaskWatch, folder: str, *_: Any) -> str:
        # The first try of one of them hangs, and the next one has not begun when the other is lost.
        if folder == "hangs once":
            leave_note(watch, NO_MIRROR)
        return folder

    def get(tasks: Any) -> str:
        # Ray raises the first error of several tasks, too.
        if "lost" in tasks:
            raise WorkerCrashedError()
        return HoldoutResult(accuracy=0.5, images=2, search_packages=()).to_json()

    folders = {name: Path(name) for name in ("hangs once", "lost")}
    for name in folders:
        leave_note(watch_of(tmp_path, what=f"evaluate {name} on test images"), NO_MIRROR)
    remote = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=submit))
    monkeypatch.setattr(finalize, "_evaluate", remote)
    monkeypatch.setattr(finalize.ray, "get", get)
    dataset: Any = SimpleNamespace(reference="images")
    with pytest.raises(JobError) as found:
        evaluate_folders(make_job(), RunFolder(tmp_path), folders, dataset, split="test")
    assert isinstance(found.value.__cause__, WorkerCrashedError)


@pytest.mark.faults
def test_a_task_whose_last_try_was_lost_with_its_node_is_done_again_however_often(tmp_path: Path, monkeypatch) -> None:
    watch = watch_of(tmp_path)
    ends: list[Exception] = [NodeDiedError("it left") for _ in range(7)]
    submitted: list[int] = []

    def submit() -> Any:
        submitted.append(len(submitted))
        return submitted[-1]

    def get(task: int) -> str:
        if ends:
            raise ends.pop()
        return f"result of {task}"

    monkeypatch.setattr(ray, "get", get)
    assert WatchedTask.begin(submit, watch).result("it failed") == "result of 7"
    ends.append(WorkerCrashedError())
    with pytest.raises(JobError, match="it failed: The worker died"):
        WatchedTask.begin(submit, watch).result("it failed")


class Watch:
    """Stands for a TaskWatch, and notes what the task does when."""

    output = ""

    def __init__(self) -> None:
        self.events: list[str] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[Watch]:
        yield self

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        self.events.append("(")
        yield
        self.events.append(")")

    def note(self, event: str, given: Any = None) -> Any:
        def call(*_: Any, **__: Any) -> Any:
            self.events.append(event)
            return given

        return call


def test_what_a_measurement_fetches_and_keeps_is_watched_and_its_process_which_ends_by_itself_is_not(monkeypatch) -> None:
    watch, table = Watch(), SimpleNamespace(to_json=lambda: "table")
    mirror = SimpleNamespace(
        path=Path, fetch_files=watch.note("fetch"), keep_files=watch.note("keep"), fetched=watch.note("model")
    )
    monkeypatch.setattr(latency, "Mirror", SimpleNamespace(of=lambda uri: mirror))
    monkeypatch.setattr(latency, "LatencyRequest", SimpleNamespace(from_json=lambda text: None))
    monkeypatch.setattr(latency, "kept_table", watch.note("measure", table))
    monkeypatch.setattr(latency, "check_in_subprocess", watch.note("check", table))
    measure_table: Any = latency._measure_table
    assert measure_table._function(watch, "", "cache", 1) == "table"
    assert "".join(watch.events) == "(fetch)measure(keep)"
    watch.events.clear()
    measure_model: Any = latency._measure_model
    assert measure_model._function(watch, "model", "dense", {}, 1.0) == "table"
    assert "".join(watch.events) == "(modelmodel)check"


def test_a_comparison_is_watched_from_its_first_file_to_its_last_image(monkeypatch) -> None:
    watch = Watch()
    mirror = SimpleNamespace(fetched=watch.note("model"))
    monkeypatch.setattr(goal, "Mirror", SimpleNamespace(of=lambda uri: mirror))
    monkeypatch.setattr(goal, "open_reference", watch.note("images"))
    monkeypatch.setattr(goal, "measure_drops", watch.note("compare", []))
    measure: Any = goal._measure
    assert measure._function(watch, "model", "dense", "reference", 0.1) == []
    assert "".join(watch.events) == "(imagesmodelmodelcompare)"


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_a_task_that_hangs_once_is_done_again_and_leaves_no_note(tmp_path: Path) -> None:
    watch, began = (
        TaskWatch(what="evaluate", output="", place=str(tmp_path / "cache" / "evaluate"), seconds=2.0),
        tmp_path / "began",
    )

    @ray.remote(max_retries=2)
    def evaluate(watch: TaskWatch) -> str:
        stalls: StallWatch
        with watch.watching() as stalls, stalls.working():
            if not began.exists():
                began.touch()
                time.sleep(600)
        return "evaluated"

    assert ray.get(evaluate.remote(watch), timeout=120) == "evaluated"
    assert list((tmp_path / "cache").glob("*")) == []


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_an_evaluation_whose_process_hangs_in_every_try_ends_with_the_stacks_of_that_process(tmp_path: Path) -> None:
    run, dataset = tmp_path / "run", prepare_dataset(DatasetSpec(source="digits", train_limit=100), tmp_path / "images", seed=0)
    model, dense = run / "models" / "50%", make_dense()
    write_folder(model, dense.module, dense.architecture, preprocessing=dense.preprocessing, classes=CLASSES)
    for split in SPLITS:
        # Who opens it for reading waits for somebody who writes.
        (dataset.path / f"{split}.arrow").unlink()
        os.mkfifo(dataset.path / f"{split}.arrow")
    job = make_job(str(run), stall_minutes=0.05, resources=Resources(cpu=1))
    with pytest.raises(JobError) as found:
        evaluate_folders(job, RunFolder(run), {"50%": model}, dataset, split="test")
    place = "cache/evaluate-50%-on-test-images.stalled/stacks.txt"
    assert str(found.value) == (
        f"a model could not be evaluated: evaluate 50% on test images: stalled: the evaluation of {model} gave no sign of life for 0.05 "
        f"minutes (--stall-minutes 0.05); the stacks of its threads are in {place} of the output"
    )
    assert "autoslim/data/cache.py" in (run / place).read_text()
