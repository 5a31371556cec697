"""What a trial takes where the job does not say, and how many trials fit."""

from __future__ import annotations

import pytest
from helpers.sample_search import make_job

from autoslim.core.job import Resources
from workers.search.resources import busy_machine, concurrent_trials, default_resources, trial_threads, with_default_resources


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
    assert trial_threads(job.replace(threads=3)) == 3


def test_a_busy_machine_is_said_where_trials_run_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (3.2, 0.0, 0.0))
    assert busy_machine(make_job()).startswith("the machine is busy (load 3.2 on ")
    assert busy_machine(make_job(address="10.0.0.1:6379")) == ""
    monkeypatch.setattr("os.getloadavg", lambda: (0.4, 0.0, 0.0))
    assert busy_machine(make_job()) == ""


def test_no_trial_fits_where_a_resource_is_missing() -> None:
    assert concurrent_trials(Resources(cpu=1.0, gpu=1.0), cpus=8.0, gpus=0.0) == 0
