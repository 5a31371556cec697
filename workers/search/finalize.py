"""The end of a search: the chosen models copied out, judged by a new process, described."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path

import ray

from autoslim.core.files import is_disk_full, move_folder, partial_folder
from autoslim.core.job import Resources, SearchJob
from autoslim.core.record import Record
from autoslim.core.result import BaseFacts, TrialResult
from autoslim.core.run_folder import RunFolder
from autoslim.data import PreparedDataset
from autoslim.errors import AutoslimError
from autoslim.export.artifact import LatencyReport
from autoslim.report.finalize import Asked, HoldoutResults, Origin, complete_folder
from autoslim.training.holdout import HoldoutResult, evaluate_in_subprocess
from workers.ray_errors import unwrapped_task_errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectedModel(Record):
    """A model within its budget; test accuracies are those of the folders, read back by a process of its own."""

    label: str
    budget: int
    folder: str
    trial: int
    method: str
    flops: int
    params: int
    validation_accuracy: float
    test_accuracy: float
    dense_test_accuracy: float
    latency: LatencyReport | None = None


@ray.remote(max_retries=2)  # type: ignore[untyped-decorator]
def _judge(folder: str, dataset: str, split: str) -> str:
    return evaluate_in_subprocess(Path(folder), Path(dataset), split).to_json()


def evaluate_folder(
    folders: list[Path], dataset: PreparedDataset, *, split: str, resources: Resources, job: str
) -> list[HoldoutResult]:
    """Raises JobError when a folder does not load, or loads only with the search's packages."""
    tasks = [
        _judge.options(num_cpus=resources.cpu, num_gpus=resources.gpu, name=f"{job} judges {folder.name}").remote(
            str(folder), str(dataset.path), split
        )
        for folder in folders
    ]
    with unwrapped_task_errors("a model could not be evaluated"):
        return [HoldoutResult.from_json(text) for text in ray.get(tasks)]


def finalize_models(
    job: SearchJob,
    output: RunFolder,
    chosen: dict[str, TrialResult],
    budgets: dict[str, int],
    reasons: dict[str, str],
    *,
    base: Path,
    facts: BaseFacts,
    dataset: PreparedDataset,
    latencies: Mapping[int, LatencyReport] | None = None,
) -> tuple[list[SelectedModel], list[str]]:
    """Writes `models/<budget>/` for every budget that has a model, and says of each one that could not be completed why.

    `reasons` say why each was chosen; `latencies` are by the trial's number, where they are limited. What an earlier run has left there
    stays until it is replaced.
    """
    folders = {label: _copy(output, label, result) for label, result in chosen.items()}
    verdicts = evaluate_folder(
        [base, *folders.values()], dataset, split="test", resources=job.resources or Resources(), job=job.id
    )
    handed, failed = [], []
    for (label, result), verdict in zip(chosen.items(), verdicts[1:], strict=True):
        try:
            complete_folder(
                folders[label],
                asked=Asked(budget=budgets[label], label=label, limits=job.limits, latency=(latencies or {}).get(result.number)),
                judged=HoldoutResults(slimmed=verdict, dense=verdicts[0], dense_validation=facts.dense_accuracy),
                dataset=dataset,
                origin=Origin(job=job.id, trial=result.number, source=job.dataset.source, reason=reasons[label]),
                dense=base,
                speed=job.speed,
            )
        except (AutoslimError, OSError) as error:
            if is_disk_full(error):
                raise
            failed.append(f"{label} (trial {result.number}): {error}")
            continue
        folder = output.model(label)
        move_folder(folders[label], folder)
        assert result.accuracy is not None and result.flops is not None and result.params is not None
        handed.append(
            SelectedModel(
                label=label,
                budget=budgets[label],
                folder=str(folder),
                trial=result.number,
                method=result.recipe.method,
                flops=result.flops,
                params=result.params,
                validation_accuracy=result.accuracy,
                test_accuracy=verdict.accuracy,
                dense_test_accuracy=verdicts[0].accuracy,
                latency=(latencies or {}).get(result.number),
            )
        )
    return handed, failed


def _copy(output: RunFolder, label: str, result: TrialResult) -> Path:
    """Beside the place where it will lie when it is complete."""
    assert result.artifact is not None
    partial = partial_folder(output.model(label))
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(output.root / result.artifact, partial)
    return partial
