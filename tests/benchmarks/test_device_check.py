"""The script for a GPU runs: in little, on this machine's CPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import device_check
import pytest
from device_check import PARTS, Report, table
from device_parts.extent import SMALL, Clock, Finding, dense_model, slimmed_models

NOT_ON_A_CPU = {"CUDA graphs", "a trial out of memory"}


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
    assert "--only has cooling; allowed: training, eager, compiled, latency, memory, search" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_each_part_runs_in_little(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    output = tmp_path / "device_check.json"
    monkeypatch.setattr(sys, "argv", ["device_check.py", "--small", "--only", part, "--output", str(output)])
    device_check.main()
    findings = json.loads(output.read_text())["parts"][part]
    assert findings
    skipped = {found["what"]: found["skipped"] for found in findings if found["skipped"]}
    assert skipped.keys() <= NOT_ON_A_CPU, skipped
    assert all(found["numbers"] or found["skipped"] for found in findings)
    assert f"| {part} | {findings[0]['what']} |" in capsys.readouterr().out
