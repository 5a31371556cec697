"""The dense model's adaptation as a task on the cluster."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray
import torch
from helpers.sample_search import DENSE, make_job, make_report
from ray.exceptions import LocalRayletDiedError, NodeDiedError, OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

from autoslim.core.job import DatasetSpec, ModelSpec, Resources, SearchJob
from autoslim.core.recipe import TrainingSettings
from autoslim.core.run_folder import RunFolder
from autoslim.core.stall_watch import end_process
from autoslim.data import prepare_dataset
from autoslim.errors import JobError, PreemptedError, WeightsError
from autoslim.progress.display import LineDisplay
from autoslim.storage.mirror import NO_MIRROR
from autoslim.store import Failure
from autoslim.training import prepare_base
from workers.progress.console import Console
from workers.search import base_model
from workers.search.base_model import adapt_dense_model, base_request
from workers.search.cluster import Cluster
from workers.search.nodes import NodeState
from workers.search.stall_note import StallNote
from workers.service.failure import Pause, diagnose

HANGS = "stalled: no step for 60.1 minutes"


class Leaves:
    """Stands for the task's DrainWatch, of the node `own`; `noticed` is whether the task has to leave it."""

    node_id, reason = "own", "its node drains"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.noticed = self.stopped = False
        monkeypatch.setattr(base_model, "DrainWatch", lambda: self)

    def __call__(self) -> bool:
        return self.noticed

    def start(self) -> Leaves:
        return self

    def stop(self) -> None:
        self.stopped = True

    @contextlib.contextmanager
    def taking_sigterm(self) -> Iterator[None]:
        yield


def test_the_task_is_watched_from_its_first_batch_to_its_last_and_no_longer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The process does other tasks, too."""
    events: list[str] = []
    ends: list[Any] = []

    class Watch:
        def __init__(self, limit: float, *, end: Callable[[str], object]) -> None:
            events.append(f"a limit of {limit:g} s")
            ends.append(end)

        def start(self) -> Watch:
            return self

        def stop(self) -> None:
            events.append("stopped")

        @contextlib.contextmanager
        def working(self) -> Iterator[None]:
            events.append("works")
            yield
            events.append("has worked")

    def prepare(*given: Any, preempted: Leaves, **named: Any) -> Iterator[Any]:
        assert preempted is leaves
        for epoch in range(2):
            events.append(f"epoch {epoch}")
            yield SimpleNamespace(to_json=lambda epoch=epoch: f"report {epoch}")
        return SimpleNamespace(to_json=lambda: "facts")

    def open_images(reference: str) -> Iterator[Any]:
        events.append("images are prepared")
        yield "node 10.0.0.7: preparing images"

    monkeypatch.setattr(torch, "set_num_threads", lambda threads: events.append(f"{threads} threads"))
    monkeypatch.setattr(base_model, "StallWatch", Watch)
    monkeypatch.setattr(base_model, "prepare_base", prepare)
    monkeypatch.setattr(base_model, "opened_images", open_images)
    monkeypatch.setattr(base_model, "log_json", lambda: events.append("logs"))
    leaves = Leaves(monkeypatch)
    monkeypatch.setattr(base_model, "BaseRequest", SimpleNamespace(from_json=lambda text: None))
    adapt: Any = base_model._adapt
    model = tmp_path / "cache" / "base-1"
    found = list(adapt._function(NO_MIRROR.address, "", "", str(model), 3, 600.0))
    assert found == [
        {"node": "own"},
        {"told": "node 10.0.0.7: preparing images"},
        {"report": "report 0"},
        {"report": "report 1"},
        {"facts": "facts"},
    ]
    assert leaves.stopped
    told = [
        "logs",
        "3 threads",
        "a limit of 600 s",
        "works",
        "images are prepared",
        "epoch 0",
        "epoch 1",
        "has worked",
        "stopped",
    ]
    assert events == told
    (end,) = ends
    assert end.func is end_process
    end.keywords["leave"](HANGS)
    stall = StallNote.of_dense_model(model, NO_MIRROR).read()
    assert stall is not None and stall.sentence.startswith(HANGS)


@pytest.mark.faults
def test_the_task_leaves_a_node_that_drains_with_a_checkpoint_of_its_step_and_begins_no_further_epoch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    leaves, asked = Leaves(monkeypatch), []

    def prepare(*given: Any, preempted: Callable[[], bool], **named: Any) -> Iterator[Any]:
        yield SimpleNamespace(to_json=lambda: "report 0")
        asked.append(preempted())
        yield pytest.fail("another epoch was begun")

    def open_images(reference: str) -> Iterator[str]:
        yield from ()

    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    monkeypatch.setattr(base_model, "prepare_base", prepare)
    monkeypatch.setattr(base_model, "opened_images", open_images)
    monkeypatch.setattr(base_model, "log_json", lambda: None)
    monkeypatch.setattr(base_model, "BaseRequest", SimpleNamespace(from_json=lambda text: None))
    adapt: Any = base_model._adapt
    items = adapt._function(NO_MIRROR.address, "", "", str(tmp_path / "cache" / "base-1"), 3, 0.0)
    assert [next(items), next(items)] == [{"node": "own"}, {"report": "report 0"}]
    leaves.noticed = True
    with pytest.raises(PreemptedError):
        next(items)
    assert asked == [] and leaves.stopped


class Tries:
    """Stands for Ray: each submission streams the next of `tries`, whose items are what the task yields, or the error that `ray.get`
    raises. The last item of a try that hangs is `HANGS`. `nodes` is what the cluster says of nodes by their ids."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, output: Path, *tries: list[Any]) -> None:
        self.left, self.given, self.output = list(tries), [], RunFolder(output)
        self.nodes: dict[str, NodeState] = {}
        monkeypatch.setattr(base_model, "NodeVerdict", self.judge)
        monkeypatch.setattr(base_model, "_adapt", SimpleNamespace(options=lambda **named: SimpleNamespace(remote=self.submit)))
        monkeypatch.setattr(ray, "get", self.get)

    def judge(self, node_id: str | None) -> SimpleNamespace:
        return SimpleNamespace(wait=lambda: NodeState.ALIVE if node_id is None else self.nodes[node_id])

    def submit(self, *given: Any) -> Iterator[Any]:
        self.given.append(given)
        return iter(self.left.pop(0))

    def get(self, item: Any) -> Any:
        if item == HANGS:
            StallNote.of_dense_model(Path(self.given[-1][3]), NO_MIRROR).write(HANGS)
            item = WorkerCrashedError()
        if isinstance(item, RayError):
            raise item
        return item

    def adapt(self, **changes: Any) -> tuple[base_model.AdaptedModel, str]:
        """The model, and what was told."""
        job, told = make_job(str(self.output.root), resources=Resources(cpu=1), **changes), io.StringIO()
        self.told = told
        images = SimpleNamespace(images=100)
        dataset: Any = SimpleNamespace(digest="d", reference="r", classes=["a"], report=SimpleNamespace(validation=images))
        console = Console(job, LineDisplay(told))
        found = adapt_dense_model(job, job.model, self.output, dataset, console)
        return found, told.getvalue()


def epoch(number: int) -> dict[str, str]:
    return {"report": make_report(number).to_json()}


FACTS = {"facts": DENSE.to_json()}


def test_the_task_is_given_the_jobs_limit_in_seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tries = Tries(monkeypatch, tmp_path, [FACTS])
    tries.adapt(stall_minutes=2.5)
    assert tries.given[0][-1] == 150.0


@pytest.mark.faults
def test_a_lost_workers_adaptation_goes_on_from_its_checkpoint_with_no_report_lost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tries = Tries(
        monkeypatch, tmp_path, [epoch(1), epoch(2), WorkerCrashedError()], [epoch(3), NodeDiedError("node 7 died")], [FACTS]
    )
    found, told = tries.adapt()
    assert found.facts == DENSE
    assert len(set(tries.given)) == 1 and len(tries.given) == 3
    # The time is before each line.
    lines = [line.partition(" ")[2] for line in told.splitlines() if "dense model: epoch" in line or "goes on" in line]
    assert [line.partition("epoch")[2].split()[0] for line in lines if "epoch" in line] == ["1/10,", "2/10,", "3/10,"]
    assert lines[2] == f"dense model goes on from its checkpoint: WorkerCrashedError: {WorkerCrashedError()}"
    assert lines[4] == "dense model goes on from its checkpoint: its node was lost"


@pytest.mark.faults
def test_an_adaptation_that_is_lost_in_every_try_is_a_loss_of_the_cluster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tries = Tries(monkeypatch, tmp_path, *([WorkerCrashedError()] for _ in range(3)))
    with pytest.raises(JobError, match="the dense model could not be prepared: The worker died") as raised:
        tries.adapt()
    assert len(tries.given) == 3
    assert isinstance(diagnose(raised.value, job_id="j"), Pause)


LEFT = RayTaskError("adapt", "the remote traceback", PreemptedError("after step 3"))


@pytest.mark.faults
@pytest.mark.parametrize(
    ("state", "error", "reason"),
    [
        # Ray's error names the death that it has heard of first.
        (NodeState.LOST, NodeDiedError("it left"), "its node was lost"),
        (NodeState.LOST, WorkerCrashedError(), "its node was lost"),
        (NodeState.DRAINING, WorkerCrashedError(), "it had to leave its node"),
        (NodeState.ALIVE, LEFT, "it had to leave its node"),
    ],
)
def test_nodes_that_are_lost_or_left_again_and_again_cost_no_try(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: NodeState, error: RayError, reason: str
) -> None:
    tries = Tries(monkeypatch, tmp_path, *([{"node": "own"}, error] for _ in range(10)), [{"node": "own"}, FACTS])
    tries.nodes["own"] = state
    found, told = tries.adapt()
    assert found.facts == DENSE and not tries.left
    assert told.count(f"dense model goes on from its checkpoint: {reason}\n") == 10


def test_a_node_that_is_lost_before_the_task_has_begun_there_costs_no_try(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tries = Tries(monkeypatch, tmp_path, *([NodeDiedError("it left")] for _ in range(5)), [FACTS])
    found, _ = tries.adapt()
    assert found.facts == DENSE


@pytest.mark.faults
@pytest.mark.parametrize("error", [WorkerCrashedError(), OutOfMemoryError("the node was low on memory")])
def test_workers_that_are_lost_on_a_node_that_stays_are_tries_that_a_new_epoch_counts_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: RayError
) -> None:
    begun = [{"node": "own"}, epoch(1), error], [{"node": "own"}, error], [{"node": "own"}, epoch(2), error]
    tries = Tries(monkeypatch, tmp_path, *begun, *([{"node": "own"}, error] for _ in range(2)))
    tries.nodes["own"] = NodeState.ALIVE
    with pytest.raises(JobError):
        tries.adapt()
    assert not tries.left


def test_what_a_node_does_before_it_trains_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tries = Tries(monkeypatch, tmp_path, [{"node": "own"}, {"told": "node 10.0.0.7: preparing images: 4 of 9"}, FACTS])
    _, told = tries.adapt()
    assert "dense model does not train yet: node 10.0.0.7: preparing images: 4 of 9\n" in told


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (LocalRayletDiedError(), JobError),
        (RayTaskError("adapt", "the remote traceback", WeightsError("other weights")), WeightsError),
        (RayTaskError("adapt", "the remote traceback", ValueError("no")), JobError),
    ],
)
def test_an_error_that_another_try_does_not_help_against_ends_the_adaptation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: RayError, expected: type[Exception]
) -> None:
    tries = Tries(monkeypatch, tmp_path, [epoch(1), error])
    with pytest.raises(expected):
        tries.adapt()
    assert len(tries.given) == 1


def test_an_adaptation_that_hangs_in_its_last_try_fails_and_says_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tries = Tries(monkeypatch, tmp_path, *([epoch(1), HANGS] for _ in range(3)))
    with pytest.raises(JobError) as raised:
        tries.adapt()
    message = str(raised.value)
    assert message.startswith(f"the dense model could not be prepared: {HANGS}; the stacks of its threads are in cache/base-")
    place = message.partition(" are in ")[2].removesuffix(" of the output")
    assert (tmp_path / place).read_text().startswith(HANGS)
    assert tries.told.getvalue().count(f"dense model goes on from its checkpoint: {HANGS}; the stacks") == 2
    # A service that took it for a lost part of its cluster would try it again for ever.
    failure = diagnose(raised.value, job_id="j")
    assert isinstance(failure, Failure) and failure.message == message


def test_the_note_of_a_try_that_hung_is_no_reason_of_the_next_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tries = Tries(monkeypatch, tmp_path, [HANGS], [WorkerCrashedError()], [WorkerCrashedError()])
    with pytest.raises(JobError, match="The worker died"):
        tries.adapt()
    assert tries.told.getvalue().count(HANGS) == 1


SMALL = ModelSpec(
    name="deit_tiny_patch16_224",
    weights="scratch",
    args={"patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2},
    image_size=(16, 16),
)


def adapting_process() -> psutil.Process:
    """Ray's processes are children of this one; it names a worker after its task."""
    (found,) = [
        process for process in psutil.Process().children(recursive=True) if "adapt dense model" in " ".join(process.cmdline()[:1])
    ]
    return found


@pytest.mark.cluster
@pytest.mark.faults
@pytest.mark.timeout(300)
def test_an_adaptation_whose_worker_is_killed_twice_gives_the_undisturbed_model(cluster: Cluster, tmp_path: Path) -> None:
    job: SearchJob = make_job(
        str(tmp_path / "killed"),
        model=SMALL,
        dataset=DatasetSpec(source="digits"),
        base=TrainingSettings(epochs=8, batch_size=64, distillation=0.0),
        resources=Resources(cpu=1),
    )
    dataset = prepare_dataset(job.dataset, tmp_path / "images", seed=job.seed)
    kills, reached = [1, 4], []

    class Watched(Console):
        def on_base_epoch(self, name: str, report: Any, epochs: float) -> None:
            super().on_base_epoch(name, report, epochs)
            reached.append(report.epoch)
            if kills and report.epoch >= kills[0]:
                kills.pop(0)
                adapting_process().kill()

    told = io.StringIO()
    found = adapt_dense_model(job, SMALL, RunFolder(Path(job.output)), dataset, Watched(job, LineDisplay(told)))
    assert kills == []
    assert told.getvalue().count("dense model goes on from its checkpoint: WorkerCrashedError: ") == 2
    # An epoch that a worker has saved, but not reported, when it is killed is not trained again.
    assert reached == sorted(set(reached)) and reached[-1] == 8

    undisturbed = prepare_base(tmp_path / "undisturbed", base_request(job, SMALL, dataset), dataset)
    while True:
        try:
            next(undisturbed)
        except StopIteration as end:
            assert found.facts == end.value
            break
    for name in ("model.safetensors", "facts.json"):
        assert (found.folder / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()
