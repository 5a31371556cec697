"""What a search says where it gets no Ray: one that cannot be started or reached is away, and anything else is a mistake of ours."""

from __future__ import annotations

import pytest
import ray
from ray.exceptions import RaySystemError

from autoslim.errors import UnavailableError
from workers.search.cluster import connect


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """`ray.init` raises the error that the test puts in."""
    errors: list[BaseException] = []

    def init(**options: object) -> None:
        raise errors[0]

    monkeypatch.setattr(ray, "init", init)
    # `connect` sets what is not set, for the processes that it starts; it is taken away again.
    for name in ("RAY_worker_niceness", "RAY_AIR_NEW_OUTPUT"):
        monkeypatch.setenv(name, "0")
    return errors


@pytest.mark.parametrize(
    "error",
    [
        # Of the class itself: what Ray raises where its node has not started within half a minute.
        Exception("The current node timed out during startup."),
        ConnectionError("no"),
        RuntimeError("no"),
        RaySystemError("no"),
    ],
)
def test_a_ray_that_does_not_start_is_unavailable_so_that_a_job_waits_instead_of_failing(
    failing: list[BaseException], error: Exception
) -> None:
    failing.append(error)
    with pytest.raises(UnavailableError, match=r"^cannot start a local Ray: ") as caught, connect(None, name="a"):
        pass
    assert caught.value.__cause__ is error


def test_a_mistake_in_the_call_stays_one(failing: list[BaseException]) -> None:
    failing.append(TypeError("an option that Ray does not know"))
    with pytest.raises(TypeError, match="does not know"), connect(None, name="a"):
        pass
