"""The model that holds on to an accuracy (`SearchJob.goal`): why it is selected, and how sure its accuracy is."""

from __future__ import annotations

from pathlib import Path

import ray

from autoslim.core.accuracy_drop import AccuracyDrop
from autoslim.core.result import BaseFacts, TrialResult
from autoslim.data import open_reference
from autoslim.search import Explanation, explain_floor
from autoslim.storage.mirror import Mirror
from autoslim.training.comparison import measure_drops
from workers.ray_errors import unwrapped_task_errors
from workers.search.prepare import PreparedSearch
from workers.search.resources import trial_resources


@ray.remote(max_retries=2)  # type: ignore[untyped-decorator]
def _measure(output: str, folder: str, dense: str, dataset: str, allowed: float) -> list[str]:
    mirror = Mirror.of(output)
    images = open_reference(dataset)
    return [drop.to_json() for drop in measure_drops(mirror.fetched(folder), mirror.fetched(dense), images, allowed=allowed)]


def explain_goal(
    prepared: PreparedSearch, results: list[TrialResult], selected: TrialResult, facts: BaseFacts, *, dense: Path
) -> Explanation:
    """With the intervals of what the selected model loses against the one in the folder `dense`.

    Raises:
        JobError: the models cannot be evaluated.
    """
    job, goal = prepared.job, prepared.job.goal
    assert goal is not None
    found = explain_floor(results, selected, goal, facts, job.limits, score=job.dataset.score)
    if not job.dataset.labelled:
        # A mean of cosines is no share of right images, which the interval is of.
        return found
    assert selected.artifact is not None
    task = _measure.options(
        num_cpus=trial_resources(job).cpu, num_gpus=trial_resources(job).gpu, name=f"{job.id} measure what {goal.label} loses"
    ).remote(
        prepared.mirror.address,
        prepared.mirror.name(prepared.output.root / selected.artifact),
        prepared.mirror.name(dense),
        prepared.dataset.reference,
        facts.dense_accuracy - goal.floor(facts.dense_accuracy).least,
    )
    with unwrapped_task_errors("the goal's model could not be compared with the dense one"):
        drops = [AccuracyDrop.from_json(text) for text in ray.get(task)]
    return found.replace(sentence="; ".join([found.sentence, *(drop.describe() for drop in drops)]))
