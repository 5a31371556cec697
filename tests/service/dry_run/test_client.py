"""The dry-run process: asked for the same once, killed when it takes too long, started again after that."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.running_service import SPEC

from autoslim.config import JobSpec, SpecError, read_mapping, settings_of
from autoslim.service.dry_run.client import DryRunError, DryRunner
from autoslim.service.settings import RequestLimits


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def dry_runner(runner: asyncio.Runner) -> Iterator[DryRunner]:
    dry_runner = DryRunner(RequestLimits())
    yield dry_runner
    runner.run(dry_runner.close())


def test_whoever_asks_the_same_meanwhile_gets_the_same_answer(runner: asyncio.Runner, dry_runner: DryRunner) -> None:
    async def ask() -> list[dict[str, Any]]:
        spec = read_mapping(SPEC)
        return await asyncio.gather(*(dry_runner.dry_run(spec.model_copy(update={"name": str(n)})) for n in range(20)))

    plans = runner.run(ask())
    assert all(plan is plans[0] for plan in plans)


def test_a_plan_says_what_a_chain_reaches_and_which_cannot_slim_the_model(runner: asyncio.Runner, dry_runner: DryRunner) -> None:
    """A chain is told like a method, under its label; one in an order that its methods refuse, with the reason."""
    chains = [["width"], ["width", "patch_slimming"], ["patch_slimming", "width"]]
    space = {"methods": {"width": {}, "patch_slimming": {}}, "chains": chains}
    plan = runner.run(dry_runner.dry_run(read_mapping(SPEC | {"space": space})))
    (budget, *_) = plan["budgets"]
    reached = {method["name"]: method["min_flops"] for method in budget["methods"]}
    assert list(reached) == ["width", "width+patch_slimming"]
    assert reached["width+patch_slimming"] < reached["width"]
    assert "first step" in plan["excluded_methods"]["patch_slimming+width"]


def test_what_cannot_be_carried_out_is_told_by_field(runner: asyncio.Runner, dry_runner: DryRunner) -> None:
    with pytest.raises(SpecError, match="within it already"):
        runner.run(dry_runner.dry_run(read_mapping(SPEC | {"flops": ["90G"]})))


def test_a_model_that_is_too_large_is_refused_without_being_built(
    runner: asyncio.Runner, dry_runner: DryRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_runner, "_limits", RequestLimits(parameters=10**9))
    # Sixteen billion weights, of which none is made.
    giant = SPEC | {"model_args": {"embed_dim": 4096, "depth": 64, "num_heads": 8, "patch_size": 4, "mlp_ratio": 8}}
    with pytest.raises(SpecError, match="parameters; allowed: at most 1,000,000,000"):
        runner.run(dry_runner.dry_run(read_mapping(giant)))


def test_a_plan_that_takes_too_long_is_given_up_with_its_process_and_the_next_one_has_another(
    runner: asyncio.Runner, dry_runner: DryRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(dry_runner, "_limits", RequestLimits(plan_seconds=0.001))
        with pytest.raises(DryRunError, match=r"within 0\.001 seconds"):
            runner.run(dry_runner.dry_run(read_mapping(SPEC | {"seed": 1})))
    assert dry_runner._process is None
    assert runner.run(dry_runner.dry_run(read_mapping(SPEC | {"seed": 1})))["classes"] == 10


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

    assert {name for name, setting in settings_of(JobSpec).items() if not setting.rules.decides_plan} == UNDECIDING.keys()

    assert result_of(SPEC | UNDECIDING) == result_of(SPEC)


def test_more_final_seeds_leave_room_for_more_refinement() -> None:
    """A final trial trains at most ten times as long as the others, so that one seed cannot use its share of a long search."""
    one, three = (result_of(SPEC | {"trials": 60, "epochs": 3.0, "final_seeds": seeds}) for seeds in (1, 3))
    assert one["estimate"]["training_images"] < three["estimate"]["training_images"]


def result_of(spec: dict[str, Any]) -> dict[str, Any]:
    from autoslim.service.dry_run.process import dry_run

    return dry_run({"spec": read_mapping(spec).model_dump(mode="json"), "parameters": 10**9})


HANGING = """
import sys, time
from autoslim.service.dry_run import process

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
