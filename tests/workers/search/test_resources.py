"""What a trial takes where the job does not say, and how many trials fit."""

from __future__ import annotations

import pytest
from helpers.sample_search import make_job

from autoslim.core.job import Resources
from autoslim.errors import UnavailableError
from workers.search.cluster import Cluster
from workers.search.resources import (
    Node,
    busy_machine,
    concurrent_trials,
    default_resources,
    scarcest_node,
    trial_ranks,
    trial_threads,
    trials_on_nodes,
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


@pytest.mark.parametrize(
    ("resources", "nodes", "trials"),
    [
        (Resources(cpu=1.0), [Node(cpus=2.0), Node(cpus=1.0)], 3),
        # Two halves of a node are no node.
        (Resources(cpu=2.0), [Node(cpus=3.0), Node(cpus=1.0)], 1),
        (Resources(cpu=1.0, gpu=8.0), [Node(cpus=8.0, gpus=4.0), Node(cpus=8.0, gpus=4.0)], 0),
        # Ray gives a trial a share of one GPU: the rests of two do not make a place.
        (Resources(cpu=1.0, gpu=0.6), [Node(cpus=8.0, gpus=2.0)], 2),
        (Resources(cpu=1.0, gpu=0.5), [Node(cpus=8.0, gpus=2.0)], 4),
        (Resources(cpu=1.0, gpu=2.0), [Node(cpus=8.0, gpus=5.0)], 2),
        (Resources(cpu=1.0), [], 0),
    ],
)
def test_a_trial_is_on_one_node(resources: Resources, nodes: list[Node], trials: int) -> None:
    assert trials_on_nodes(resources, nodes) == trials


def test_the_default_is_a_share_of_the_node_that_has_the_fewest_cpus_for_a_gpu() -> None:
    head, rich, poor = Node(cpus=64.0), Node(cpus=32.0, gpus=2.0), Node(cpus=16.0, gpus=8.0)
    assert scarcest_node([head, rich, poor]) == poor
    assert scarcest_node([Node(cpus=2.0), head]) == head
    assert scarcest_node([]).cpus == 1.0


def test_no_trial_fits_where_a_resource_is_missing() -> None:
    assert concurrent_trials(Resources(cpu=1.0, gpu=1.0), cpus=8.0, gpus=0.0) == 0


def cluster(*, joined: bool, gpus: float) -> Cluster:
    machines = [Node(cpus=8.0, gpus=gpus)]
    return Cluster(
        address="10.0.0.4:6379", dashboard=None, login="no login", cpus=8.0, gpus=gpus, machines=machines, joined=joined
    )


@pytest.mark.parametrize(
    ("joined", "gpus", "concurrency"), [(False, 2.0, None), (False, 2.0, 8), (True, 2.0, None), (True, 2.0, 8), (True, 0.0, 8)]
)
def test_a_concurrency_holds_for_a_cluster_that_may_grow(joined: bool, gpus: float, concurrency: int | None) -> None:
    cluster(joined=joined, gpus=gpus).check_fits(Resources(cpu=1.0, gpu=1.0), concurrency=concurrency)


@pytest.mark.parametrize(("joined", "concurrency"), [(False, None), (False, 8), (True, None)])
def test_a_cluster_without_the_resources_is_refused_otherwise(joined: bool, concurrency: int | None) -> None:
    with pytest.raises(UnavailableError, match=r"1 GPUs of one node, .* has 8 CPUs and 0 GPUs; allowed") as refused:
        cluster(joined=joined, gpus=0.0).check_fits(Resources(cpu=1.0, gpu=1.0), concurrency=concurrency)
    assert ("--concurrency" in str(refused.value)) is joined


def test_a_trial_with_more_gpus_than_any_node_is_refused_though_the_cluster_has_as_many() -> None:
    machines = [Node(cpus=8.0, gpus=4.0)] * 2
    found = Cluster(
        address="10.0.0.4:6379", dashboard=None, login="no login", cpus=16.0, gpus=8.0, machines=machines, joined=True
    )
    with pytest.raises(UnavailableError, match="a trial takes 8 CPUs and 8 GPUs of one node, a node has 8 CPUs and 4 GPUs"):
        found.check_fits(Resources(cpu=8.0, gpu=8.0))
