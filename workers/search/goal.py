"""The model that holds on to an accuracy (`SearchJob.goal`): why it is selected, and how sure its accuracy is."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import ray

from autoslim.core.accuracy_drop import AccuracyDrop
from autoslim.core.result import BaseFacts, TrialResult
from autoslim.data import open_reference
from autoslim.search import Explanation, explain_floor
from autoslim.storage.mirror import Mirror
from autoslim.training.comparison import measure_drops
from workers.search.prepare import PreparedSearch
from workers.search.resources import trial_resources
from workers.search.task_watch import TaskWatch, WatchedTask

_log = logging.getLogger(__name__)


@ray.remote(max_retries=2)  # type: ignore[untyped-decorator]
def _measure(watch: TaskWatch, folder: str, dense: str, dataset: str, allowed: float) -> list[str]:
    mirror = Mirror.of(watch.output)
    with watch.watching() as stalls, stalls.working():
        images = open_reference(dataset, tell=_log.info)
        drops = measure_drops(mirror.fetched(folder), mirror.fetched(dense), images, allowed=allowed)
    return [drop.to_json() for drop in drops]


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
    watch = TaskWatch.of(f"measure what {goal.label} loses", job, prepared.output, prepared.mirror)
    resources = trial_resources(job)
    submit = functools.partial(
        _measure.options(num_cpus=resources.cpu, num_gpus=resources.gpu, name=f"{job.id} {watch.what}").remote,
        watch,
        prepared.mirror.name(prepared.output.root / selected.artifact),
        prepared.mirror.name(dense),
        prepared.dataset.reference,
        facts.dense_accuracy - goal.floor(facts.dense_accuracy).least,
    )
    measured = WatchedTask.begin(submit, watch).result("the goal's model could not be compared with the dense one")
    drops = [AccuracyDrop.from_json(text) for text in measured]
    return found.replace(sentence="; ".join([found.sentence, *(drop.describe() for drop in drops)]))
