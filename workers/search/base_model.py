"""The dense models that a job starts from, adapted to the user's data as a task on the cluster."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import ray
from ray.exceptions import LocalRayletDiedError, RayError

from autoslim.core.job import ModelSpec, SearchJob
from autoslim.core.logs import log_json
from autoslim.core.result import BaseFacts, EpochReport
from autoslim.core.run_folder import RunFolder
from autoslim.core.stall_watch import StallWatch, end_process
from autoslim.data import PreparedDataset, open_reference
from autoslim.errors import JobError, first_line
from autoslim.report.dense_models import chance_warning
from autoslim.storage.mirror import NO_MIRROR, Mirror
from autoslim.training import BaseRequest, prepare_base
from autoslim.training.base_model import weights_digest
from workers.progress.console import Console
from workers.ray_errors import is_cluster_failure, unwrapped_task_errors
from workers.search.named_disks import named_full_disks
from workers.search.resources import trial_resources, trial_threads
from workers.search.stall_note import StallNote

_log = logging.getLogger(__name__)

_TRIES = 3
"""To get one epoch further, each from the checkpoint of the one before, whose worker was lost or has ended itself since it hung."""


# Not tried again by Ray: it takes the items of all tries for one stream, and a try that goes on from a checkpoint has fewer.
@ray.remote(max_retries=0)  # type: ignore[untyped-decorator]
def _adapt(output: str, request: str, dataset: str, folder: str, threads: int, stall_seconds: float) -> Iterator[dict[str, str]]:
    """Each item has a `report` (an EpochReport), and the last one `facts` (BaseFacts), as JSON. The process ends itself, and leaves a
    StallNote, when it has done nothing for `stall_seconds`; 0 is no limit."""
    import torch

    log_json()
    torch.set_num_threads(threads)
    mirror = Mirror.of(output)
    note = StallNote.of_dense_model(mirror.path(folder), mirror)
    stalls = StallWatch(stall_seconds, end=functools.partial(end_process, leave=note.write)).start()
    try:
        with stalls.working(), named_full_disks(mirror.path(folder).parent.parent, mirror):
            images = open_reference(dataset, tell=_log.info)
            reports = prepare_base(mirror.path(folder), BaseRequest.from_json(request), images, mirror=mirror)
            while True:
                try:
                    yield {"report": next(reports).to_json()}
                except StopIteration as end:
                    yield {"facts": end.value.to_json()}
                    return
    finally:
        stalls.stop()


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
            if "report" in item:
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
    """What the task streams, up to its facts, in as many tries as it takes: as those of a trial, losses count from the last new epoch.
    `tell` gets the reason of each further try, and `failure` begins the error of a last one that hung.

    Raises:
        JobError: the last try hung.
        RayError: the task's own error, or a loss that another try does not help against.
    """
    furthest, left = float("-inf"), _TRIES
    while True:
        left -= 1
        note.delete()
        try:
            for reference in submit():
                item = ray.get(reference)
                if "report" in item and (epoch := EpochReport.from_json(item["report"]).epoch) > furthest:
                    furthest, left = epoch, _TRIES - 1
                yield item
                if "facts" in item:
                    return
        except RayError as error:
            # Without the raylet that this process is connected to it gets no other worker.
            if not is_cluster_failure(error) or isinstance(error, LocalRayletDiedError):
                raise
            stall = note.read()
            if left:
                tell(first_line(error) if stall is None else stall.sentence)
            elif stall is not None:
                # Without its cause: nothing of the cluster was lost.
                raise JobError(f"{failure}: {stall.sentence}") from None
            else:
                raise


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
