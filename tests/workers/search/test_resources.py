"""What a trial takes where the job does not say, and how many trials fit."""

from __future__ import annotations

import pytest
from helpers.sample_search import make_job

from autoslim.core.job import Resources
from workers.search.resources import concurrent_trials, default_resources, trial_threads, with_default_resources


@pytest.mark.parametrize(
    ("cpus", "gpus", "resources", "trials"),
    [
        (8.0, 0.0, Resources(cpu=1.0, gpu=0.0), 8),
        (8.0, 2.0, Resources(cpu=4.0, gpu=1.0), 2),
        (1.0, 2.0, Resources(cpu=1.0, gpu=1.0), 1),
    ],
)
def test_a_trial_takes_a_gpu_and_its_share_of_the_cpus_or_one_cpu(
    cpus: float, gpus: float, resources: Resources, trials: int
) -> None:
    assert default_resources(cpus=cpus, gpus=gpus) == resources
    assert concurrent_trials(resources, cpus=cpus, gpus=gpus) == trials


def test_a_jobs_own_resources_are_kept() -> None:
    job = make_job(resources=Resources(cpu=0.5))
    assert with_default_resources(job, cpus=8.0, gpus=1.0) == job
    assert concurrent_trials(Resources(cpu=0.5), cpus=2.0, gpus=0.0) == 4
    assert trial_threads(job) == 1


def test_no_trial_fits_where_a_resource_is_missing() -> None:
    assert concurrent_trials(Resources(cpu=1.0, gpu=1.0), cpus=8.0, gpus=0.0) == 0
