"""The end of a search: the chosen models copied out, judged by a new process, described."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import ray

from autoslim.artifact import load_config, write_config
from autoslim.data import PreparedDataset
from autoslim.errors import JobError
from autoslim.job import Resources, SearchJob
from autoslim.output import Output
from autoslim.record import Record
from autoslim.report.card import render_card
from autoslim.result import BaseFacts, TrialResult
from autoslim.training.verify import Verdict


@dataclasses.dataclass(frozen=True, kw_only=True)
class HandedOver(Record):
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


@ray.remote(max_retries=2)  # type: ignore[untyped-decorator]
def _judge(folder: str, dataset: str, split: str) -> str:
    """In a process that has imported nothing yet: what a user will find, not what the search believes."""
    command = [sys.executable, "-m", "autoslim.training.verify", folder, dataset, "--split", split]
    run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own module
    if run.returncode != 0:
        raise RuntimeError(f"{folder} could not be judged:\n{run.stderr[-4000:]}")
    return run.stdout.strip().splitlines()[-1]


def judge(folders: list[Path], dataset: PreparedDataset, *, split: str, resources: Resources, job: str) -> list[Verdict]:
    """Raises JobError when a folder does not load, or loads only with the search's packages."""
    tasks = [
        _judge.options(num_cpus=resources.cpu, num_gpus=resources.gpu, name=f"{job} judges {folder.name}").remote(
            str(folder), str(dataset.path), split
        )
        for folder in folders
    ]
    try:
        verdicts = [Verdict.from_dict(json.loads(text)) for text in ray.get(tasks)]
    except ray.exceptions.RayError as error:
        raise JobError(f"a model could not be judged: {error}") from error
    for folder, verdict in zip(folders, verdicts, strict=True):
        if verdict.search_packages:
            raise JobError(f"{folder} loads only with {', '.join(verdict.search_packages)} installed")
    return verdicts


def hand_over(
    job: SearchJob,
    output: Output,
    chosen: dict[str, TrialResult],
    budgets: dict[str, int],
    *,
    base: Path,
    facts: BaseFacts,
    dataset: PreparedDataset,
) -> list[HandedOver]:
    """Writes `models/<budget>/` for every budget that has a model."""
    folders = {label: _copy(output, label, result) for label, result in chosen.items()}
    verdicts = judge([base, *folders.values()], dataset, split="test", resources=job.resources or Resources(), job=job.id)
    handed = []
    for (label, result), verdict in zip(chosen.items(), verdicts[1:], strict=True):
        folder = folders[label]
        config = load_config(folder)
        config = config.replace(
            flops=config.flops.replace(budget=budgets[label], budget_label=label),
            accuracy={
                **config.accuracy,
                "validation/dense": facts.dense_accuracy,
                "test/dense": verdicts[0].accuracy,
                "test/slimmed": verdict.accuracy,
            },
            images={**config.images, "test": verdict.images},
        )
        write_config(folder, config)
        report = dataset.report
        about = (
            f"{report.train.images} training, {report.validation.images} validation ({report.validation.origin}) and "
            f"{report.test.images} test images ({report.test.origin}); "
            f"{report.train.unreadable + report.validation.unreadable + report.test.unreadable} unreadable images left out."
        )
        card = render_card(config, job=job.id, trial=result.number, source=job.dataset.source, report=about)
        (folder / "README.md").write_text(card, encoding="utf-8")
        assert result.accuracy is not None and result.flops is not None and result.params is not None
        handed.append(
            HandedOver(
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
            )
        )
    return handed


def _copy(output: Output, label: str, result: TrialResult) -> Path:
    assert result.artifact is not None
    target = output.model(label)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(output.root / result.artifact, partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return target
