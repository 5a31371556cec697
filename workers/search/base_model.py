"""The dense models that a job starts from, adapted to the user's data as a task on the cluster."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import ray
from ray.exceptions import LocalRayletDiedError, NodeDiedError, RayError, RayTaskError
from ray.exceptions import OutOfMemoryError as RayOutOfMemory

from autoslim.core.job import ModelSpec, SearchJob
from autoslim.core.logs import log_json
from autoslim.core.result import BaseFacts, EpochReport
from autoslim.core.run_folder import RunFolder
from autoslim.core.stall_watch import StallWatch, end_process
from autoslim.data import PreparedDataset
from autoslim.errors import JobError, PreemptedError, first_line
from autoslim.report.dense_models import chance_warning
from autoslim.storage.mirror import NO_MIRROR, Mirror
from autoslim.training import BaseRequest, prepare_base
from autoslim.training.base_model import weights_digest
from workers.progress.console import Console
from workers.ray_errors import is_cluster_failure, unwrapped_task_errors
from workers.search.drain_watch import DrainWatch
from workers.search.named_disks import named_full_disks
from workers.search.node_verdict import REASONS, NodeVerdict
from workers.search.nodes import NodeState
from workers.search.opened_images import opened_images
from workers.search.resources import trial_resources, trial_threads
from workers.search.stall_note import Stall, StallNote

T = TypeVar("T")
R = TypeVar("R")

_log = logging.getLogger(__name__)

_TRIES = 3
"""To get one epoch further, each from the checkpoint of the one before, whose worker was lost or has ended itself since it hung. One that
was lost with its node, or had to leave it, is none."""


# Not tried again by Ray: it takes the items of all tries for one stream, and a try that goes on from a checkpoint has fewer.
@ray.remote(max_retries=0)  # type: ignore[untyped-decorator]
def _adapt(output: str, request: str, dataset: str, folder: str, threads: int, stall_seconds: float) -> Iterator[dict[str, str]]:
    """The first item has the `node` that it runs on, by its id. Each other one has a line that was `told` before the training begins, a
    `report` (an EpochReport as JSON), or, the last one, `facts` (BaseFacts as JSON).

    It ends with a PreemptedError where it has to leave its node (`DrainWatch`), with a checkpoint. The process ends itself, and leaves a
    StallNote, when it has done nothing for `stall_seconds`; 0 is no limit.
    """
    import torch

    log_json()
    torch.set_num_threads(threads)
    mirror = Mirror.of(output)
    note = StallNote.of_dense_model(mirror.path(folder), mirror)
    leaves = DrainWatch().start()
    stalls = StallWatch(stall_seconds, end=functools.partial(end_process, leave=note.write)).start()
    try:
        yield {"node": leaves.node_id}
        full_disks = named_full_disks(mirror.path(folder).parent.parent, mirror)
        with leaves.taking_sigterm(), stalls.working(), full_disks:
            items = _adaptation(mirror, mirror.path(folder), request, dataset, leaves)
            # Training looks after each of its steps; what does not train goes on to its end, behind the last checkpoint.
            while not leaves():
                try:
                    yield next(items)
                except StopIteration:
                    return
            raise PreemptedError("the adaptation leaves its node between two reports, and goes on from its checkpoint")
    except PreemptedError as error:
        _log.warning("%s: %s", leaves.reason, error)
        raise
    finally:
        leaves.stop()
        stalls.stop()


def _adaptation(mirror: Mirror, folder: Path, request: str, dataset: str, leaves: DrainWatch) -> Generator[dict[str, str]]:
    images = yield from _named("told", opened_images(dataset), str)
    reports = prepare_base(folder, BaseRequest.from_json(request), images, preempted=leaves, mirror=mirror)
    facts = yield from _named("report", reports, lambda report: report.to_json())
    yield {"facts": facts.to_json()}


def _named(name: str, values: Generator[T, None, R], text: Callable[[T], str]) -> Generator[dict[str, str], None, R]:
    """The values as items with this name, and what the generator returns."""
    while True:
        try:
            value = next(values)
        except StopIteration as end:
            result: R = end.value
            return result
        yield {name: text(value)}


@dataclasses.dataclass(frozen=True)
class AdaptedModel:
    """A dense model that is trained for the data: its folder, and what was measured of it."""

    folder: Path
    facts: BaseFacts


def adapt_dense_model(
    job: SearchJob,
    model: ModelSpec,
    output: RunFolder,
    dataset: PreparedDataset,
    console: Console,
    *,
    mirror: Mirror = NO_MIRROR,
    label: str = "",
    check: Callable[[], None] = lambda: None,
) -> AdaptedModel:
    """Nothing is trained where the model's folder exists already. `label` names it where the search has several, and `check` is called
    after every epoch. With a `mirror` the folder is on the node that has trained it, and in the store.

    Raises:
        JobError: it cannot be trained; the message has the remote traceback, or says where the last of its tries hung.
    """
    request = base_request(job, model, dataset)
    folder, called = output.base(request.digest()), f"dense model {label}".strip()
    if not mirror.has(folder):
        what = called if label else f"{called}: {model.name}"
        console.on_message(f"{what} {_purpose(job, dataset)}")
    submit = functools.partial(
        _adapt.options(
            num_cpus=trial_resources(job).cpu,
            num_gpus=trial_resources(job).gpu,
            num_returns="streaming",
            name=f"{job.id} adapt {called}",
        ).remote,
        mirror.address,
        request.to_json(),
        dataset.reference,
        mirror.name(folder),
        trial_threads(job),
        60 * job.stall_minutes,
    )
    console.on_step(called)
    note, failure = StallNote.of_dense_model(folder, mirror), f"the {called} could not be prepared"
    with unwrapped_task_errors(failure):
        for item in _items(submit, note, failure, lambda why: console.on_message(f"{called} goes on from its checkpoint: {why}")):
            if "told" in item:
                console.on_images(f"{called} does not train yet: {item['told']}")
            elif "report" in item:
                check()
                console.on_base_epoch(called, EpochReport.from_json(item["report"]), job.base.epochs)
    facts = BaseFacts.from_json(item["facts"])
    if facts.head_check:
        console.on_message(f"{called}: {facts.head_check}")
    if job.dataset.labelled:
        console.on_message(f"{called}: accuracy {facts.dense_accuracy:.1%} on the validation images (chance {facts.chance:.1%})")
        warning = chance_warning(facts, dataset.report.validation.images, job.base)
        if warning is not None:
            console.on_message(f"{called}: look at this: {warning}")
    return AdaptedModel(folder, facts)


def _items(
    submit: Callable[[], Iterable[ray.ObjectRef]], note: StallNote, failure: str, tell: Callable[[str], None]
) -> Iterator[dict[str, str]]:
    """What the task streams behind its node, up to its facts, in as many tries as it takes: as those of a trial, losses count from the last
    new epoch, and a node that is lost or left is none. `tell` gets the reason of each further try, and `failure` begins the error of a last
    one that hung.

    Raises:
        JobError: the last try hung.
        RayError: the task's own error, or a loss that another try does not help against.
    """
    furthest, losses = float("-inf"), 0
    while True:
        note.delete()
        node_id: str | None = None
        try:
            for reference in submit():
                item = ray.get(reference)
                if "node" in item:
                    node_id = item["node"]
                    continue
                if "report" in item and (epoch := EpochReport.from_json(item["report"]).epoch) > furthest:
                    furthest, losses = epoch, 0
                yield item
                if "facts" in item:
                    return
        except RayError as error:
            if isinstance(error, RayTaskError) and isinstance(error.cause, PreemptedError):
                tell(REASONS[NodeState.DRAINING])
                continue
            # Without the raylet that this process is connected to it gets no other worker.
            if not is_cluster_failure(error) or isinstance(error, LocalRayletDiedError):
                raise
            stall = note.read()
            left = _left_with_node(error, node_id, stall)
            losses += left is None
            if losses < _TRIES:
                tell(left or (first_line(error) if stall is None else stall.sentence))
            elif stall is not None:
                # Without its cause: nothing of the cluster was lost.
                raise JobError(f"{failure}: {stall.sentence}") from None
            else:
                raise


def _left_with_node(error: RayError, node_id: str | None, stall: Stall | None) -> str | None:
    """Where the task's worker was lost with its node, the reason in words; None where it was lost by itself. `node_id` is None where the
    task has not begun."""
    if stall is not None or isinstance(error, RayOutOfMemory):
        return None
    if node_id is None and isinstance(error, NodeDiedError):
        return REASONS[NodeState.LOST]
    state = NodeVerdict(node_id).wait()
    return None if state is NodeState.ALIVE else REASONS[state]


def _purpose(job: SearchJob, dataset: PreparedDataset) -> str:
    if not job.dataset.labelled:
        return "as it is, for its features"
    return f"for {len(dataset.classes)} classes, {job.base.epochs:g} epochs if it needs training"


def base_request(job: SearchJob, model: ModelSpec, dataset: PreparedDataset) -> BaseRequest:
    """Everything that a dense model depends on; searches with equal requests have the same model, images and splits."""
    return BaseRequest(
        model=model,
        weights_digest=weights_digest(model),
        dataset_digest=dataset.digest,
        training=job.base,
        seed=job.seed,
        adapt=job.adapt,
    )


def base_names(job: SearchJob, dataset: PreparedDataset) -> dict[str, str]:
    """The names of the dense models' folders in an output folder's cache, by the labels of the starts."""
    return {
        label: RunFolder(Path(job.output)).base(base_request(job, model, dataset).digest()).name
        for label, model in job.starts.items()
    }
