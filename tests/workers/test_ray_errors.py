"""What a driver sees of an error on another machine."""

from __future__ import annotations

import pytest
from ray import exceptions

from autoslim.core.causes import cause_chain
from autoslim.errors import DatasetError, JobError
from workers.ray_errors import is_cluster_failure, unwrapped_task_errors


def of_a_task(cause: Exception) -> exceptions.RayTaskError:
    """As `ray.get` raises what a task raised."""
    return exceptions.RayTaskError("work", "Traceback of the task", cause).as_instanceof_cause()


def test_an_error_of_ours_is_raised_as_the_task_raised_it():
    raised = DatasetError("3 of 9 images cannot be read")
    with pytest.raises(DatasetError) as found, unwrapped_task_errors("it failed"):
        raise of_a_task(raised)
    assert found.value is raised
    assert isinstance(found.value.__cause__, exceptions.RayTaskError)


@pytest.mark.parametrize("error", [of_a_task(ValueError("no such knob")), exceptions.NodeDiedError("the node is gone")])
def test_every_other_error_becomes_a_failed_job_that_keeps_its_cause(error):
    with (
        pytest.raises(JobError, match="the latency could not be measured: ") as found,
        unwrapped_task_errors("the latency could not be measured"),
    ):
        raise error
    assert found.value.__cause__ is error


def test_an_error_of_the_driver_itself_passes_through():
    with pytest.raises(KeyError), unwrapped_task_errors("it failed"):
        raise KeyError("x")


def test_the_chain_crosses_machines_and_ends_where_it_is_a_circle():
    first, second = JobError("first"), ValueError("second")
    outer = of_a_task(first)
    first.__cause__, second.__cause__ = second, outer
    assert list(cause_chain(outer)) == [outer, first, second]


def test_only_what_is_not_a_tasks_own_error_is_the_clusters():
    assert is_cluster_failure(exceptions.WorkerCrashedError())
    assert not is_cluster_failure(of_a_task(ValueError("x")))
    assert not is_cluster_failure(OSError("x"))
