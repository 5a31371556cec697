"""The dense models that a job starts from, adapted to the user's data as a task on the cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import ray

from autoslim.core.job import ModelSpec, SearchJob
from autoslim.core.result import BaseFacts, EpochReport
from autoslim.core.run_folder import RunFolder
from autoslim.core.stall_watch import StallWatch
from autoslim.data import PreparedDataset, open_reference
from autoslim.report.dense_models import chance_warning
from autoslim.storage.mirror import NO_MIRROR, Mirror
from autoslim.training import BaseRequest, prepare_base
from autoslim.training.base_model import weights_digest
from workers.progress.console import Console
from workers.ray_errors import unwrapped_task_errors
from workers.search.resources import trial_resources, trial_threads


@ray.remote(max_retries=2)  # type: ignore[untyped-decorator]
def _adapt(output: str, request: str, dataset: str, folder: str, threads: int, stall_seconds: float) -> Iterator[str]:
    """Streams EpochReports, and the BaseFacts last, as JSON. A retry continues from the checkpoint of the worker that was lost, or that
    has ended itself since it did nothing for `stall_seconds`; 0 is no limit."""
    import torch

    torch.set_num_threads(threads)
    stalls = StallWatch(stall_seconds).start()
    try:
        with stalls.working():
            mirror = Mirror.of(output)
            images = open_reference(dataset)
            reports = prepare_base(mirror.path(folder), BaseRequest.from_json(request), images, mirror=mirror)
            while True:
                try:
                    yield next(reports).to_json()
                except StopIteration as end:
                    yield end.value.to_json()
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
        JobError: it cannot be trained; the message has the remote traceback.
    """
    request = base_request(job, model, dataset)
    folder, called = output.base(request.digest()), f"dense model {label}".strip()
    if not mirror.has(folder):
        what = called if label else f"{called}: {model.name}"
        console.on_message(f"{what} {_purpose(job, dataset)}")
    task = _adapt.options(
        num_cpus=trial_resources(job).cpu,
        num_gpus=trial_resources(job).gpu,
        num_returns="streaming",
        name=f"{job.id} adapt {called}",
    ).remote(
        mirror.address, request.to_json(), dataset.reference, mirror.name(folder), trial_threads(job), 60 * job.stall_minutes
    )
    console.on_step(called)
    last = ""
    with unwrapped_task_errors(f"the {called} could not be prepared"):
        # Each report is printed when the next item arrives, because only then is it known not to be the facts.
        for reference in task:
            if last:
                check()
                console.on_base_epoch(called, EpochReport.from_json(last), job.base.epochs)
            last = ray.get(reference)
    facts = BaseFacts.from_json(last)
    if facts.head_check:
        console.on_message(f"{called}: {facts.head_check}")
    if job.dataset.labelled:
        console.on_message(f"{called}: accuracy {facts.dense_accuracy:.1%} on the validation images (chance {facts.chance:.1%})")
        warning = chance_warning(facts, dataset.report.validation.images, job.base)
        if warning is not None:
            console.on_message(f"{called}: look at this: {warning}")
    return AdaptedModel(folder, facts)


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
