"""Plans: made once, given up when they take too long, and made again after whatever happened to the planner."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.running_service import SPEC, patient
from PIL import Image

from autoslim.config import JobSpec, SpecError, read_mapping, settings_of
from autoslim.service.dry_run.dry_runner import DryRunner
from autoslim.service.dry_run.errors import DryRunError, PlannerStartingError
from autoslim.service.settings import RequestLimits


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def dry_runner(runner: asyncio.Runner) -> Iterator[DryRunner]:
    dry_runner = DryRunner(patient())
    yield dry_runner
    runner.run(dry_runner.close())


@pytest.mark.slow
def test_whoever_asks_the_same_meanwhile_gets_the_same_answer(runner: asyncio.Runner, dry_runner: DryRunner) -> None:
    async def ask() -> list[dict[str, Any]]:
        spec = read_mapping(SPEC)
        specs = (spec.model_copy(update={"name": str(n), "seed": n}) for n in range(20))
        return await asyncio.gather(*(dry_runner.dry_run(each, tenant="t") for each in specs))

    plans = runner.run(ask())
    assert all(plan is plans[0] for plan in plans)


@pytest.mark.slow
def test_a_plan_says_what_a_chain_reaches_and_which_cannot_slim_the_model(runner: asyncio.Runner, dry_runner: DryRunner) -> None:
    """A chain is told like a method, under its label; one in an order that its methods refuse, with the reason."""
    chains = [["width"], ["width", "patch_slimming"], ["patch_slimming", "width"]]
    space = {"methods": {"width": {}, "patch_slimming": {}}, "chains": chains}
    plan = runner.run(dry_runner.dry_run(read_mapping(SPEC | {"space": space}), tenant="t"))
    (budget, *_) = plan["budgets"]
    reached = {method["name"]: method["min_flops"] for method in budget["methods"]}
    assert list(reached) == ["width", "width+patch_slimming"]
    assert reached["width+patch_slimming"] < reached["width"]
    assert "first step" in plan["excluded_methods"]["patch_slimming+width"]


@pytest.mark.slow
@pytest.mark.short
def test_what_cannot_be_carried_out_is_told_by_field(runner: asyncio.Runner, dry_runner: DryRunner) -> None:
    with pytest.raises(SpecError, match="within it already"):
        runner.run(dry_runner.dry_run(read_mapping(SPEC | {"flops": ["90G"]}), tenant="t"))


@pytest.mark.slow
@pytest.mark.short
def test_a_model_that_is_too_large_is_refused_without_being_built(
    runner: asyncio.Runner, dry_runner: DryRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_runner, "_limits", RequestLimits(parameters=10**9))
    # Sixteen billion weights, of which none is made.
    giant = SPEC | {"model_args": {"embed_dim": 4096, "depth": 64, "num_heads": 8, "patch_size": 4, "mlp_ratio": 8}}
    with pytest.raises(SpecError, match="parameters; allowed: at most 1,000,000,000"):
        runner.run(dry_runner.dry_run(read_mapping(giant), tenant="t"))


@pytest.mark.slow
@pytest.mark.short
def test_a_plan_that_takes_too_long_is_given_up_with_its_process_and_the_next_one_has_another(
    runner: asyncio.Runner, dry_runner: DryRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = read_mapping(SPEC | {"flops": ["51%"]})
    runner.run(dry_runner.planner.capabilities())
    planner = dry_runner.planner.pid
    assert planner is not None
    with monkeypatch.context() as patch:
        patch.setattr(dry_runner, "_limits", RequestLimits(plan_seconds=0.001))
        with pytest.raises(DryRunError, match=r"within 0\.001 seconds"):
            runner.run(dry_runner.dry_run(spec, tenant="t"))
    assert psutil.Process(planner).children() == []
    assert runner.run(dry_runner.dry_run(spec, tenant="t"))["classes"] == 10
    assert dry_runner.planner.pid == planner


@pytest.mark.slow
def test_the_planner_has_one_thread_so_that_its_forks_find_no_lock_held(runner: asyncio.Runner, dry_runner: DryRunner) -> None:
    runner.run(dry_runner.planner.capabilities())
    assert psutil.Process(dry_runner.planner.pid).num_threads() == 1


@pytest.mark.slow
def test_a_planner_that_was_killed_is_started_again(runner: asyncio.Runner, dry_runner: DryRunner) -> None:
    runner.run(kill(dry_runner))
    assert runner.run(dry_runner.dry_run(read_mapping(SPEC | {"flops": ["53%"]}), tenant="t"))["classes"] == 10


async def kill(dry_runner: DryRunner) -> None:
    """Ends when the service has noticed it."""
    await dry_runner.planner.capabilities()
    assert dry_runner.planner.pid is not None
    os.kill(dry_runner.planner.pid, signal.SIGKILL)
    while dry_runner.planner.pid is not None:
        await asyncio.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["an image is added", "a class is added", "an image is removed"])
def test_a_plan_is_made_again_when_its_data_has_changed(
    runner: asyncio.Runner, dry_runner: DryRunner, tmp_path: Path, change: str
) -> None:
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for number in range(20):
            Image.new("RGB", (16, 16)).save(tmp_path / name / f"{number}.png")
    spec = read_mapping(SPEC | {"data": str(tmp_path)})
    before = runner.run(dry_runner.dry_run(spec, tenant="t"))
    assert runner.run(dry_runner.dry_run(spec, tenant="t")) is before
    if change == "an image is added":
        shutil.copy(tmp_path / "cats" / "0.png", tmp_path / "cats" / "20.png")
    elif change == "a class is added":
        shutil.copytree(tmp_path / "cats", tmp_path / "birds")
    else:
        (tmp_path / "dogs" / "0.png").unlink()
    after = runner.run(dry_runner.dry_run(spec, tenant="t"))
    counts = {"an image is added": 41, "a class is added": 60, "an image is removed": 39}
    assert (sum(before["images"].values()), sum(after["images"].values())) == (40, counts[change])


@pytest.mark.slow
@pytest.mark.short
def test_a_plan_is_made_again_when_its_model_or_its_weights_have_changed(
    runner: asyncio.Runner, dry_runner: DryRunner, tmp_path: Path
) -> None:
    config, weights = tmp_path / "config.json", tmp_path / "weights.safetensors"
    shape = {"patch_size": 4, "embed_dim": 32, "num_heads": 2}

    def write(depth: int) -> None:
        folder = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {}, "model_args": shape | {"depth": depth}}
        config.write_text(json.dumps(folder))

    write(2)
    weights.touch()
    spec = read_mapping(SPEC | {"model": str(tmp_path), "model_args": {}, "weights": str(weights)})
    shallow = runner.run(dry_runner.dry_run(spec, tenant="t"))
    assert runner.run(dry_runner.dry_run(spec, tenant="t")) is shallow
    write(4)
    deep = runner.run(dry_runner.dry_run(spec, tenant="t"))
    assert deep["dense_flops"] > 1.5 * shallow["dense_flops"]
    weights.write_bytes(b"other")
    again = runner.run(dry_runner.dry_run(spec, tenant="t"))
    assert (again, again is deep) == (deep, False)


@pytest.mark.slow
@pytest.mark.short
def test_a_plan_is_answered_again_without_the_planner_whatever_its_name_and_seed(
    runner: asyncio.Runner, dry_runner: DryRunner
) -> None:
    spec = read_mapping(SPEC | {"flops": ["52%"]})
    first = runner.run(dry_runner.dry_run(spec, tenant="t"))
    # The last test of this planner, which is not started again.
    runner.run(kill(dry_runner))
    for changes in ({}, {"seed": 7}, {"name": "other"}, {"priority": 9}):
        assert runner.run(dry_runner.dry_run(spec.model_copy(update=changes), tenant="another")) is first
    assert dry_runner.planner.pid is None


@pytest.mark.slow
def test_a_request_that_does_not_wait_for_the_start_leaves_it_to_go_on(runner: asyncio.Runner) -> None:
    impatient = DryRunner(RequestLimits(planner_start_seconds=0))

    async def ask() -> None:
        starts = set()
        for _ in range(3):
            with pytest.raises(PlannerStartingError, match="still starting"):
                await impatient.dry_run(read_mapping(SPEC), tenant="t")
            starts.add(impatient.planner._starting)
        (start,) = starts
        assert start is not None
        await start
        assert (await impatient.dry_run(read_mapping(SPEC), tenant="t"))["classes"] == 10

    runner.run(ask())
    runner.run(impatient.close())


UNDECIDING: dict[str, Any] = {
    "schema_version": 1,
    "name": "tulips",
    "weights": "pretrained",
    "batch_size": 8,
    "lr": 0.001,
    "augmentation": "strong",
    "flip": True,
    "precision": "fp16",
    "grad_accum_steps": 4,
    "grad_checkpointing": True,
    "compile": True,
    "base_lr": 0.002,
    "seed": 12,
    "scheduler": "none",
    "reuse": ("all",),
    "speed": (),
    "forms": (),
    "max_form_drop": 1.0,
    "webhook": "https://hooks.example.org/autoslim",
    "priority": 9,
    "stall_minutes": 5.0,
}


@pytest.mark.slow
@pytest.mark.short
def test_what_does_not_decide_a_plan_leaves_it_as_it_is() -> None:
    """Otherwise two specs that differ in it would share one answer."""

    assert {name for name, setting in settings_of(JobSpec).items() if not setting.rules.decides_plan} == UNDECIDING.keys()

    assert result_of(SPEC | UNDECIDING) == result_of(SPEC)


@pytest.mark.slow
@pytest.mark.short
def test_more_final_seeds_leave_room_for_more_refinement() -> None:
    """A final trial trains at most ten times as long as the others, so that one seed cannot use its share of a long search."""
    one, three = (result_of(SPEC | {"trials": 60, "epochs": 3.0, "final_seeds": seeds}) for seeds in (1, 3))
    assert one["estimate"]["training_images"] < three["estimate"]["training_images"]


def result_of(spec: dict[str, Any]) -> dict[str, Any]:
    from autoslim.service.dry_run.plan import dry_run

    return dry_run({"spec": read_mapping(spec).model_dump(mode="json"), "limits": RequestLimits().model_dump()})


SERVER = """
import os, sys, time
from autoslim.errors import JobError
from autoslim.service.dry_run import planner_process

def hang(_):
    print("begun", os.getpid(), flush=True)
    time.sleep(600)

def fail(_):
    raise JobError("it cannot be done")

def crash(_):
    return {}["nothing"]

def die(_):
    os.abort()

def fill(_):
    return {"bytes": len(bytearray(64 * 2**30))}

def talk(_):
    return "x" * 2**25

def answer(_):
    return {"planner": os.getppid()}

planner_process.OPERATIONS.update(hang=hang, fail=fail, crash=crash, die=die, fill=fill, talk=talk, answer=answer)
planner_process.ForkServer(sys.stdin.buffer, sys.stdout.buffer).serve()
"""


@contextlib.contextmanager
def started_server() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[bytes]]:
    """For tests that leave it as it was."""
    with started_server() as process:
        yield process


@pytest.fixture
def ended_server() -> Iterator[subprocess.Popen[bytes]]:
    """For a test that ends it."""
    with started_server() as process:
        yield process


def ask(server: subprocess.Popen[bytes], operation: str, *, number: int = 1, seconds: float = 60.0) -> None:
    assert server.stdin is not None
    server.stdin.write(json.dumps({"id": number, "operation": operation, "seconds": seconds}).encode() + b"\n")
    server.stdin.flush()


def answer_of(server: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert server.stdout is not None
    answer: dict[str, Any] = json.loads(server.stdout.readline())
    return answer


def hanging(server: subprocess.Popen[bytes]) -> int:
    """The process of a plan that hangs."""
    ask(server, "hang")
    assert server.stdout is not None
    begun, pid = server.stdout.readline().split()
    assert (begun, psutil.pid_exists(int(pid))) == (b"begun", True)
    return int(pid)


def gone(pid: int) -> bool:
    """A process that nobody has waited for yet counts as gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(timeout=30)
    return not psutil.pid_exists(pid)


@pytest.mark.slow
def test_whatever_happens_to_a_plan_is_its_own_answer_and_the_planner_lives_on(server: subprocess.Popen[bytes]) -> None:
    ask(server, "fail")
    assert answer_of(server) == {"id": 1, "fault": {"place": [], "problem": "it cannot be done", "infeasible": False}}
    told = {
        "crash": "KeyError: 'nothing'",
        "die": "was killed by signal 6",
        "talk": "was killed by signal 9",
        "fill": "MemoryError",
    }
    for number, (operation, what) in enumerate(told.items()):
        ask(server, operation, number=number)
        answer = answer_of(server)
        assert (answer["id"], answer.keys()) == (number, {"id", "crash"})
        assert what in answer["crash"]
    ask(server, "answer", number=9)
    assert answer_of(server) == {"id": 9, "result": {"planner": server.pid}}


@pytest.mark.slow
def test_a_plan_that_hangs_does_not_hold_up_another_and_is_ended_after_its_time(server: subprocess.Popen[bytes]) -> None:
    pid = hanging(server)
    ask(server, "answer", number=2)
    assert answer_of(server)["id"] == 2
    assert psutil.pid_exists(pid)
    os.kill(pid, signal.SIGKILL)
    assert "was killed by signal 9" in answer_of(server)["crash"]
    ask(server, "hang", number=3, seconds=0.0)
    answer = answer_of(server) if (line := server.stdout.readline()).startswith(b"begun") else json.loads(line)  # type: ignore[union-attr]
    assert answer == {"id": 3, "overdue": True}


@pytest.mark.slow
def test_a_plan_that_hangs_ends_with_whoever_asked_for_it(ended_server: subprocess.Popen[bytes]) -> None:
    pid = hanging(ended_server)
    assert ended_server.poll() is None
    assert ended_server.stdin is not None
    ended_server.stdin.close()
    assert ended_server.wait(timeout=30) == 0
    assert gone(pid)


@pytest.mark.slow
def test_a_plan_that_hangs_ends_with_the_planner(ended_server: subprocess.Popen[bytes]) -> None:
    pid = hanging(ended_server)
    ended_server.kill()
    assert gone(pid)


@pytest.mark.slow
def test_a_planner_whose_service_is_gone_when_it_has_started_ends_in_silence() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "autoslim.service.dry_run.planner_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.wait(timeout=280), process.stderr.read()) == (0, b"")
