"""What a trial's model was made from, for its configuration."""

from __future__ import annotations

from autoslim.core.job import ModelSpec, SearchJob
from autoslim.core.made_from import MadeFrom
from autoslim.core.recipe import TrainingSettings
from autoslim.core.result import BaseFacts, Origin, TrialResult
from autoslim.errors import SpaceError
from autoslim.search import load_space
from workers.search.resources import default_resources, trial_threads


def made_from(
    job: SearchJob, result: TrialResult, facts: BaseFacts, *, label: str, tuned: tuple[float, ...] = ()
) -> MadeFrom | None:
    """None for a trial of an earlier search, whose settings this job does not have, and where the search space is gone."""
    if result.origin == Origin.REUSED:
        return None
    start = result.recipe.model or next(iter(job.starts))
    try:
        shared_training = _shared_training(job)
    except SpaceError:
        return None
    return MadeFrom(
        recipe=result.recipe,
        budget_label=label,
        model=job.starts[start],
        teacher=teacher_spec(job, facts, start),
        dataset=job.dataset,
        probe=job.probe,
        base=job.base,
        adapt=job.adapt,
        shared_training=shared_training,
        seed=job.seed,
        # A job that does not say what a trial takes is known to have it filled in by the driver alone.
        threads=trial_threads(job.replace(resources=job.resources or default_resources(cpus=1, gpus=0))),
        tuned=tuned,
    )


def teacher_spec(job: SearchJob, facts: BaseFacts, start: str) -> ModelSpec | None:
    """The model whose soft labels the trials of a start learn from; None where it is its own teacher."""
    name = facts.teacher.get(start)
    return None if name is None else job.starts.get(name, job.teacher)


def _shared_training(job: SearchJob) -> TrainingSettings:
    space = load_space(job.space)
    return (space if job.dataset.labelled else space.for_features()).with_fixed(job.training)
