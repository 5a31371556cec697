"""What one trial takes of a cluster, and how many trials run at a time."""

from __future__ import annotations

from autoslim.core.cpus import busy_cpus, usable_cpus
from autoslim.core.job import Resources, SearchJob


def default_resources(*, cpus: float, gpus: float) -> Resources:
    """One GPU and its share of the CPUs, or one CPU where there is no GPU."""
    if gpus < 1:
        return Resources(cpu=1.0, gpu=0.0)
    return Resources(cpu=float(max(1, int(cpus // gpus))), gpu=1.0)


def with_default_resources(job: SearchJob, *, cpus: float, gpus: float) -> SearchJob:
    """The job with `default_resources` where it does not say what a trial takes."""
    return job.replace(resources=job.resources or default_resources(cpus=cpus, gpus=gpus))


def concurrent_trials(resources: Resources, *, cpus: float, gpus: float) -> int:
    """How many trials of these `resources` fit at a time; 0 where not even one does."""
    fits = [total / taken for total, taken in ((cpus, resources.cpu), (gpus, resources.gpu)) if taken > 0]
    return int(min(fits)) if fits else 1


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
