"""The planning process: asked for the same once, killed when it takes too long, started again after that."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.running_service import SPEC

from autoslim.config import JobSpec, SpecError, read_mapping, settings_of
from autoslim.service.planning.client import Planner, PlannerError
from autoslim.service.settings import RequestLimits


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def planner(runner: asyncio.Runner) -> Iterator[Planner]:
    planner = Planner(RequestLimits())
    yield planner
    runner.run(planner.close())


def test_whoever_asks_the_same_meanwhile_gets_the_same_answer(runner: asyncio.Runner, planner: Planner) -> None:
    async def ask() -> list[dict[str, Any]]:
        spec = read_mapping(SPEC)
        return await asyncio.gather(*(planner.plan(spec.model_copy(update={"name": str(n)})) for n in range(20)))

    plans = runner.run(ask())
    assert all(plan is plans[0] for plan in plans)


def test_what_cannot_be_carried_out_is_told_by_field(runner: asyncio.Runner, planner: Planner) -> None:
    with pytest.raises(SpecError, match="within it already"):
        runner.run(planner.plan(read_mapping(SPEC | {"flops": ["90G"]})))


def test_a_model_that_is_too_large_is_refused_without_being_built(
    runner: asyncio.Runner, planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "_limits", RequestLimits(parameters=10**9))
    # Sixteen billion weights, of which none is made.
    giant = SPEC | {"model_args": {"embed_dim": 4096, "depth": 64, "num_heads": 8, "patch_size": 4, "mlp_ratio": 8}}
    with pytest.raises(SpecError, match="parameters; allowed: at most 1,000,000,000"):
        runner.run(planner.plan(read_mapping(giant)))


def test_a_plan_that_takes_too_long_is_given_up_with_its_process_and_the_next_one_has_another(
    runner: asyncio.Runner, planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(planner, "_limits", RequestLimits(plan_seconds=0.001))
        with pytest.raises(PlannerError, match=r"within 0\.001 seconds"):
            runner.run(planner.plan(read_mapping(SPEC | {"seed": 1})))
    assert planner._process is None
    assert runner.run(planner.plan(read_mapping(SPEC | {"seed": 1})))["classes"] == 10


UNDECIDING: dict[str, Any] = {
    "schema_version": 1,
    "name": "tulips",
    "weights": "pretrained",
    "batch_size": 8,
    "lr": 0.001,
    "augmentation": "strong",
    "flip": True,
    "base_lr": 0.002,
    "scheduler": "none",
    "price_per_hour": 2.5,
    "reuse": ("all",),
    "speed": (),
    "priority": 9,
}


def test_what_does_not_decide_a_plan_leaves_it_as_it_is() -> None:
    """Otherwise two specs that differ in it would share one answer."""
    from autoslim.service.planning.process import plan

    assert {name for name, setting in settings_of(JobSpec).items() if not setting.rules.decides_plan} == UNDECIDING.keys()

    def planned(spec: dict[str, Any]) -> dict[str, Any]:
        return plan({"spec": read_mapping(spec).model_dump(mode="json"), "parameters": 10**9})

    assert planned(SPEC | UNDECIDING) == planned(SPEC)


HANGING = """
import sys, time
from autoslim.service.planning import process

def hang(_):
    print("begun", flush=True)
    time.sleep(600)

process.OPERATIONS["hang"] = hang
process.serve(sys.stdin.buffer, sys.stdout.buffer)
"""


def test_a_plan_that_hangs_ends_with_whoever_asked_for_it() -> None:
    with subprocess.Popen([sys.executable, "-c", HANGING], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b'{"operation": "hang"}\n')
        process.stdin.flush()
        assert process.stdout.readline() == b"begun\n"
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(timeout=30) == 0
