"""What a trial takes where the job does not say, and how many trials fit."""

from __future__ import annotations

import pytest
from helpers.sample_search import make_job

from autoslim.core.job import Resources
from autoslim.errors import UnavailableError
from workers.search.cluster import Cluster
from workers.search.resources import (
    busy_machine,
    concurrent_trials,
    default_resources,
    trial_ranks,
    trial_threads,
    with_default_resources,
)


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


@pytest.mark.parametrize(("resources", "ranks"), [("cpu=4", 1), ("gpu=0.5", 1), ("gpu=1", 1), ("gpu=8,cpu=16", 8)])
def test_a_trial_trains_on_all_its_gpus(resources: str, ranks: int) -> None:
    assert trial_ranks(make_job(resources=Resources.parse(resources))) == ranks


def test_a_busy_machine_is_said_where_trials_run_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.search.resources.busy_cpus", lambda: 3.2)
    assert busy_machine(make_job()).startswith("the machine is busy: others use 3.2 of ")
    assert busy_machine(make_job(address="10.0.0.1:6379")) == ""
    monkeypatch.setattr("workers.search.resources.busy_cpus", lambda: 0.4)
    assert busy_machine(make_job()) == ""


def test_no_trial_fits_where_a_resource_is_missing() -> None:
    assert concurrent_trials(Resources(cpu=1.0, gpu=1.0), cpus=8.0, gpus=0.0) == 0


def cluster(*, joined: bool, gpus: float) -> Cluster:
    return Cluster(address="10.0.0.4:6379", dashboard=None, login="no login", cpus=8.0, gpus=gpus, joined=joined)


@pytest.mark.parametrize(
    ("joined", "gpus", "concurrency", "slots"),
    [
        (False, 2.0, None, 2),
        (False, 2.0, 1, 1),
        (False, 2.0, 8, 2),
        (True, 2.0, None, 2),
        (True, 2.0, 8, 8),
        (True, 0.0, 8, 8),
    ],
)
def test_a_concurrency_holds_for_a_cluster_that_may_grow(joined: bool, gpus: float, concurrency: int | None, slots: int) -> None:
    assert cluster(joined=joined, gpus=gpus).slots(Resources(cpu=1.0, gpu=1.0), concurrency=concurrency) == slots


@pytest.mark.parametrize(("joined", "concurrency"), [(False, None), (False, 8), (True, None)])
def test_a_cluster_without_the_resources_is_refused_otherwise(joined: bool, concurrency: int | None) -> None:
    with pytest.raises(UnavailableError, match="1 GPUs, the cluster has 8 and 0") as refused:
        cluster(joined=joined, gpus=0.0).slots(Resources(cpu=1.0, gpu=1.0), concurrency=concurrency)
    assert ("--concurrency" in str(refused.value)) is joined
