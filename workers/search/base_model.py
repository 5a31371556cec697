"""The dense model that a job starts from, adapted to the user's data as a task on the cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ray

from autoslim.core.job import SearchJob
from autoslim.core.result import BaseFacts, EpochReport
from autoslim.core.run_folder import RunFolder
from autoslim.data import PreparedDataset, open_dataset
from autoslim.report.epoch_line import epoch_line
from autoslim.training import BaseRequest, prepare_base
from autoslim.training.base_model import weights_digest
from workers.progress.console import Console
from workers.ray_errors import unwrapped_task_errors
from workers.search.resources import trial_resources, trial_threads


@ray.remote(max_retries=2)  # type: ignore[untyped-decorator]
def _adapt(request: str, dataset: str, folder: str, threads: int) -> Iterator[str]:
    """Streams EpochReports, and the BaseFacts last, as JSON. A retry continues from the checkpoint of the worker that was lost."""
    import torch

    torch.set_num_threads(threads)
    reports = prepare_base(Path(folder), BaseRequest.from_json(request), open_dataset(Path(dataset)))
    while True:
        try:
            yield next(reports).to_json()
        except StopIteration as end:
            yield end.value.to_json()
            return


def adapt_dense_model(job: SearchJob, output: RunFolder, dataset: PreparedDataset, console: Console) -> tuple[Path, BaseFacts]:
    """The adapted model's folder and facts. Nothing is trained where the folder exists already.

    Raises:
        JobError: it cannot be trained; the message has the remote traceback.
    """
    request = base_request(job, dataset)
    folder = output.base(request.digest())
    if not folder.exists():
        console.on_message(
            f"dense model: {job.model.name} for {len(dataset.classes)} classes, {job.base.epochs:g} epochs if it needs training"
        )
    task = _adapt.options(
        num_cpus=trial_resources(job).cpu,
        num_gpus=trial_resources(job).gpu,
        num_returns="streaming",
        name=f"{job.id} adapt dense model",
    ).remote(request.to_json(), str(dataset.path), str(folder), trial_threads(job))
    last = ""
    with unwrapped_task_errors("the dense model could not be prepared"):
        # Each report is printed when the next item arrives, because only then is it known not to be the facts.
        for reference in task:
            if last:
                console.on_message(f"dense model: {epoch_line(EpochReport.from_json(last), job.base.epochs)}")
            last = ray.get(reference)
    facts = BaseFacts.from_json(last)
    console.on_message(f"dense model: accuracy {facts.dense_accuracy:.1%} on the validation images (chance {facts.chance:.1%})")
    return folder, facts


def base_request(job: SearchJob, dataset: PreparedDataset) -> BaseRequest:
    """Everything that the dense model depends on; searches with equal requests have the same model, images and splits."""
    return BaseRequest(
        model=job.model,
        weights_digest=weights_digest(job.model),
        dataset_digest=dataset.digest,
        training=job.base,
        seed=job.seed,
    )
