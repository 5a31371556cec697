"""The dense model that a job starts from, adapted to the user's data as a task on the cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ray

from autoslim.core.job import Resources, SearchJob
from autoslim.core.result import BaseFacts, EpochReport
from autoslim.core.run_folder import RunFolder
from autoslim.data import PreparedDataset, open_dataset
from autoslim.report.epoch_line import epoch_line
from autoslim.training import BaseRequest, prepare_base
from autoslim.training.base_model import weights_digest
from workers.progress.console import Terminal
from workers.ray_errors import unwrapped_task_errors


@ray.remote(max_retries=2)  # type: ignore[untyped-decorator]
def _adapt(request: str, dataset: str, folder: str, threads: int) -> Iterator[str]:
    """Streams reports, and the facts last; its checkpoint outlives the worker."""
    import torch

    torch.set_num_threads(threads)
    reports = prepare_base(Path(folder), BaseRequest.from_json(request), open_dataset(Path(dataset)))
    while True:
        try:
            yield next(reports).to_json()
        except StopIteration as end:
            yield end.value.to_json()
            return


def adapt(job: SearchJob, output: RunFolder, dataset: PreparedDataset, terminal: Terminal) -> tuple[Path, BaseFacts]:
    """The adapted model's folder and facts; at once where an earlier run has left them.

    Raises:
        JobError: with the remote traceback, when it cannot be trained.
    """
    request = base_request(job, dataset)
    folder = output.base(request.digest())
    if not folder.exists():
        terminal.say(
            f"dense model: {job.model.name} for {len(dataset.classes)} classes, {job.base.epochs:g} epochs if it needs any"
        )
    task = _adapt.options(
        num_cpus=trial_resources(job).cpu,
        num_gpus=trial_resources(job).gpu,
        num_returns="streaming",
        name=f"{job.id} dense model",
    ).remote(request.to_json(), str(dataset.path), str(folder), threads(job))
    last = ""
    with unwrapped_task_errors("the dense model could not be prepared"):
        for reference in task:
            if last:
                terminal.say(f"dense model: {epoch_line(EpochReport.from_json(last), job.base.epochs)}")
            last = ray.get(reference)
    facts = BaseFacts.from_json(last)
    terminal.say(f"dense model: accuracy {facts.dense_accuracy:.1%} on the validation images (chance {facts.chance:.1%})")
    return folder, facts


def base_request(job: SearchJob, dataset: PreparedDataset) -> BaseRequest:
    """Everything that decides the dense model; two searches with equal ones have the same model, images and cuts."""
    return BaseRequest(
        model=job.model,
        weights_digest=weights_digest(job.model),
        dataset_digest=dataset.digest,
        training=job.base,
        seed=job.seed,
    )


def threads(job: SearchJob) -> int:
    return max(1, int(trial_resources(job).cpu))


def trial_resources(job: SearchJob) -> Resources:
    """What one trial takes; settled once the cluster is known."""
    assert job.resources is not None
    return job.resources
