"""What one trial takes of a cluster, and how many trials run at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from autoslim.core.cpus import busy_cpus, usable_cpus
from autoslim.core.job import Resources, SearchJob


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """CPUs and GPUs of a node in all, whatever is taken of them. `id` is Ray's."""

    cpus: float
    gpus: float = 0.0
    id: str = ""


def default_resources(*, cpus: float, gpus: float) -> Resources:
    """One GPU and its share of the CPUs, or one CPU where there is no GPU."""
    if gpus < 1:
        return Resources(cpu=1.0, gpu=0.0)
    return Resources(cpu=float(max(1, int(cpus // gpus))), gpu=1.0)


def with_default_resources(job: SearchJob, *, cpus: float, gpus: float) -> SearchJob:
    """The job with `default_resources` where it does not say what a trial takes."""
    return job.replace(resources=job.resources or default_resources(cpus=cpus, gpus=gpus))


def concurrent_trials(resources: Resources, *, cpus: float, gpus: float) -> int:
    """How many trials of these `resources` fit on a machine at a time; 0 where not even one does."""
    fits = []
    if resources.cpu > 0:
        fits.append(int(cpus / resources.cpu))
    if resources.gpu >= 1:
        fits.append(int(gpus / resources.gpu))
    elif resources.gpu > 0:
        # Ray gives a trial the share of one GPU, never of two.
        fits.append(int(gpus) * int(1 / resources.gpu))
    return min(fits, default=1)


def trials_on_nodes(resources: Resources, nodes: Iterable[Node]) -> int:
    """How many fit on these nodes: a trial is on one, so that one with eight GPUs has no place on eight nodes with one each."""
    return sum(concurrent_trials(resources, cpus=node.cpus, gpus=node.gpus) for node in nodes)


def scarcest_node(nodes: Sequence[Node]) -> Node:
    """The node that the default of a trial's resources is a share of: with the fewest CPUs for each GPU, where any has one. With that share
    a trial can be placed on every GPU."""
    with_gpus = [node for node in nodes if node.gpus >= 1]
    if with_gpus:
        return min(with_gpus, key=lambda node: node.cpus / node.gpus)
    return max(nodes, key=lambda node: node.cpus, default=Node(cpus=1.0))


def trial_resources(job: SearchJob) -> Resources:
    """What one trial of a job takes whose resources are known (`with_default_resources`)."""
    assert job.resources is not None
    return job.resources


def trial_ranks(job: SearchJob) -> int:
    """Processes that train one trial: one for each of its GPUs, one where it has less than two."""
    return 1 if job.resources is None else max(1, int(job.resources.gpu))


def trial_threads(job: SearchJob) -> int:
    """PyTorch threads of one trial: by default as many as it has CPUs, and one where it shares a CPU."""
    return job.threads or max(1, int(trial_resources(job).cpu))


def busy_machine(job: SearchJob) -> str:
    """A line where trials run on this machine and other processes keep CPUs busy; else empty."""
    if job.address not in (None, "local") or round(busy := busy_cpus()) < 1:
        return ""
    return f"the machine is busy: others use {busy:.1f} of {usable_cpus()} CPUs, so that trials take longer than on an idle one"
