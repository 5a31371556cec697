"""The script for a GPU runs: in little, on this machine's CPU."""

from __future__ import annotations

import gc
import json
import re
import sys
import time
import tomllib
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import MagicMock

import device_check
import pytest
import torch
from device_check import PARTS, Report, seconds_of, table
from device_parts.cuda_graph import captured
from device_parts.extent import DENSE, FULL, SMALL, Clock, Finding, dense_model, slimmed_models
from device_parts.inference import Column, Form, each_in_time
from packaging.requirements import Requirement
from torch import Tensor, nn

from autoslim.methods import METHODS, WITH_AN_OPTION
from autoslim.training.device import choose_precision

NOT_ON_A_CPU = {"CUDA graphs", "a trial out of memory"}
MODELS = (DENSE, *SMALL.methods)
SETTINGS = ("float32", "TF32", "bfloat16", "float16", "4 parts", "checkpointed", "compiled")
WITH_TIMM = {"torch", "torchvision", "timm", "numpy", "safetensors", "pillow", "pyyaml", "filelock"}
"""timm itself, and what it and PyTorch require of what autoslim does."""
ROOT = Path(__file__).parents[2]
BATCHES = (SMALL.one, SMALL.many)
FORMS: list[Form] = [(name, nn.Identity(), 0.5) for name in ("dense", "merge", "width")]


def test_the_table_has_what_was_measured_and_why_the_rest_was_not():
    findings = [
        Finding(
            what="merge, eager, batch 8",
            numbers={"ms": 12.345, "images/s": 65432.0, "of the FLOPs": 0.5, "of the FLOPs' ratio": 0.987},
        ),
        Finding(what="the rest", skipped="it was ended after 55 s"),
    ]
    report = Report(hardware="a CPU", torch="2", timm="1", extent=SMALL, parts={"eager": findings}, seconds={"eager": 55.0})
    assert table(report).splitlines() == [
        "a CPU; torch 2, timm 1; deit_tiny_patch16_224",
        "",
        "| Part | What | Result |",
        "|---|---|---|",
        "| eager | merge, eager, batch 8 | 12.35 ms; 65,432 images/s; 50.0% of the FLOPs; 98.7% of the FLOPs' ratio |",
        "| eager | the rest | skipped: it was ended after 55 s |",
    ]


def test_all_parts_together_take_eight_minutes_at_most():
    # The script itself imports what its parts do.
    assert device_check._GRACE + sum(seconds + device_check._GRACE for _, seconds in PARTS.values()) <= 480
    assert device_check._TOTAL == 480


def test_the_last_part_has_what_the_others_have_left():
    assert seconds_of("latency", 100.0, last=False) == PARTS["latency"][1]
    assert seconds_of("compiled", 250.0, last=True) == 480 - 250 - device_check._GRACE
    # After parts that took all of their time, and imports as long as a grace, its own.
    others = sum(seconds + device_check._GRACE for name, (_, seconds) in PARTS.items() if name != "compiled")
    assert seconds_of("compiled", others + device_check._GRACE, last=True) == PARTS["compiled"][1]
    assert seconds_of("compiled", 500.0, last=True) == 0
    assert list(PARTS)[-1] == "compiled"


def test_the_imports_of_the_script_are_of_the_eight_minutes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    given: list[float] = []

    def part(name: str, seconds: float, *, small: bool) -> list[Finding]:
        given.append(seconds)
        return []

    monkeypatch.setattr(device_check, "_part_in_process", part)
    monkeypatch.setattr(device_check, "_BEGAN", time.monotonic() - 100)
    monkeypatch.setattr(sys, "argv", ["device_check.py", "--only", "training", "--output", str(tmp_path / "found.json")])
    device_check.main()
    assert 0 < given[0] <= 480 - 100 - device_check._GRACE


def test_every_method_is_measured_at_batch_1_and_at_64_or_more():
    assert set(FULL.methods) == set(METHODS) - set(WITH_AN_OPTION)
    assert FULL.one == 1
    assert FULL.many >= 64


def test_a_clock_counts_down():
    clock = Clock(5.0)
    assert 4.0 < clock.left <= 5.0


def test_the_slimmed_models_have_half_of_the_flops():
    shares = {name: share for name, _, share in slimmed_models(SMALL, dense_model(SMALL))}
    assert shares.keys() == {"dense", *SMALL.methods}
    assert all(0.4 < share <= 0.5 for name, share in shares.items() if name != "dense")


def test_a_part_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", ["device_check.py", "--only", "training,cooling"])
    with pytest.raises(SystemExit):
        device_check.main()
    assert "--only has cooling; allowed: training, eager, latency, memory, search, compiled" in capsys.readouterr().err


class Countdown(Clock):
    """Its seconds pass when `spend` says so."""

    def __init__(self, seconds: float) -> None:
        self.rest = seconds

    @property
    def left(self) -> float:
        return self.rest

    def spend(self, seconds: float) -> None:
        self.rest -= seconds


def columns() -> list[Column]:
    return [Column(mode, torch.zeros(1, 3, 8, 8), 0.0) for mode in ("compiled", "CUDA graphs")]


def test_a_model_begins_only_while_as_long_is_left_as_the_last_one_took():
    clock = Countdown(45.0)

    def measure(form: Form) -> Iterator[Finding]:
        clock.spend(30.0)
        yield from (Finding(what=column.what(form[0]), numbers={"ms": 1.0}) for column in columns())

    why = "no time is left: 15 s, and the model before took 30 s"
    found = {finding.what: finding.skipped for finding in each_in_time(FORMS, columns(), clock, measure)}
    assert found == {
        "dense, compiled, batch 1": "",
        "dense, CUDA graphs, batch 1": "",
        "merge, compiled, batch 1": why,
        "merge, CUDA graphs, batch 1": why,
        "width, compiled, batch 1": why,
        "width, CUDA graphs, batch 1": why,
    }
    # Of another batch, too, for which the last one says how long it may take.
    later = list(each_in_time(FORMS, columns(), clock, measure, took=15.1))
    assert [finding.what for finding in later] == list(found)
    assert all(finding.skipped == "no time is left: 15 s, and the model before took 15 s" for finding in later)


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_a_graph_that_cannot_be_captured_says_why_and_leaves_what_was_compiled():
    def measure(form: Form) -> Iterator[Finding]:
        yield Finding(what=columns()[0].what(form[0]), numbers={"ms": 1.0})
        captured(form[1], torch.zeros(1, 3, 8, 8), torch.device("cuda"))

    found = {finding.what: finding for finding in each_in_time(FORMS[:2], columns(), Countdown(45.0), measure)}
    assert [finding.numbers for what, finding in found.items() if "compiled" in what] == [{"ms": 1.0}, {"ms": 1.0}]
    skipped = {what: finding.skipped for what, finding in found.items() if finding.skipped}
    assert skipped.keys() == {"dense, CUDA graphs, batch 1", "merge, CUDA graphs, batch 1"}
    assert all("Error: " in why for why in skipped.values())


def test_a_graph_keeps_the_model_whose_weights_it_reads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "cuda", MagicMock())
    model = nn.Identity()
    kept, run = weakref.ref(model), captured(model, torch.zeros(1, 3, 8, 8), torch.device("cpu"))
    del model
    gc.collect()
    assert kept() is not None
    run(torch.zeros(1, 3, 8, 8))


def test_a_form_is_compared_with_the_dense_model_of_its_column():
    column, calls = columns()[0], list[str]()

    def runner(name: str) -> Callable[[Tensor], None]:
        return lambda images: calls.append(name)

    alone = column.finding(FORMS[1], runner("merge"))
    assert alone.numbers.keys() == {"ms", "images/s"}
    assert column.finding(FORMS[0], runner("dense")).numbers.keys() == {"ms", "images/s"}
    calls.clear()
    beside = column.finding(FORMS[2], runner("width"))
    assert beside.what == "width, compiled, batch 1"
    assert beside.numbers.keys() == {"ms", "images/s", "times dense", "of the FLOPs", "of the FLOPs' ratio"}
    assert set(calls) == {"dense", "width"}


def test_the_wheels_that_it_needs_are_listed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [Requirement(text).name for text in [*project["dependencies"], *project["optional-dependencies"]["search"]]]
    listed = re.search(
        r"needs these wheels.*?\n\n- autoslim, (.*?);\n- for the search (.*?); without", (ROOT / "docs/gpus.md").read_text()
    )
    assert listed
    assert sorted([*", ".join(listed.groups()).split(", "), *WITH_TIMM]) == sorted(needed)


def expected(part: str) -> list[str]:
    """What each part finds or skips in little on a CPU."""
    whats = {
        "training": [f"{name}, {choose_precision('auto', torch.device('cpu'))}" for name in MODELS]
        + [f"{DENSE}, {setting}" for setting in SETTINGS],
        "eager": [f"{name}, {mode}, batch {size}" for mode in ("eager", "ONNX Runtime") for name in MODELS for size in BATCHES],
        "compiled": [f"{name}, compiled, batch {size}" for size in BATCHES for name in MODELS] + ["CUDA graphs"],
        "latency": [f"{name}, batch {SMALL.one}" for name in (*SMALL.methods, "all")],
        "memory": ["a trial out of memory"],
        "search": ["a search, cpu=0.5, 3 trials"],
    }
    return whats[part]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has other findings")
@pytest.mark.parametrize("part", PARTS)
def test_each_part_runs_in_little(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    output = tmp_path / "device_check.json"
    monkeypatch.setattr(sys, "argv", ["device_check.py", "--small", "--only", part, "--output", str(output)])
    device_check.main()
    findings = json.loads(output.read_text())["parts"][part]
    skipped = {found["what"]: found["skipped"] for found in findings if found["skipped"]}
    assert skipped.keys() <= NOT_ON_A_CPU, skipped
    assert sorted(found["what"] for found in findings) == sorted(expected(part))
    assert all(found["numbers"] or found["skipped"] for found in findings)
    assert f"| {part} | {findings[0]['what']} |" in capsys.readouterr().out
