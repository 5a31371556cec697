"""`--progress` and `--quiet` of a whole command: what is on the terminal, and that stdout has the result alone."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from helpers.screen import run_on_terminal

from autoslim.export.artifact import load_config

SLIM = [
    "slim", "--method", "width", "--model", "deit_tiny_patch16_224", "--image-size", "16", "--from-scratch", "--flops", "60%",
    "--model-args", "patch_size=4,embed_dim=32,depth=3,num_heads=2", "--data", "digits", "--train-limit", "200",
    "--epochs", "2", "--base-epochs", "1", "--speed", "none", "--threads", "1", "--json", "--output",
]  # fmt: skip


@pytest.mark.parametrize("command", ["plan", "search", "slim"])
def test_an_unknown_progress_is_refused_before_anything_is_loaded(autoslim, command: str) -> None:
    code, out, err = autoslim(command, "--progress", "tty")
    assert (code, out) == (2, "")
    assert err == "autoslim: --progress is 'tty'; allowed: auto, live, plain, none\n"


@pytest.mark.slow
def test_quiet_writes_the_result_alone(autoslim, tmp_path: Path) -> None:
    code, out, err = autoslim(*SLIM, "out", "--quiet")
    assert (code, err) == (0, "")
    assert json.loads(out)["flops"] <= json.loads(out)["budget"]


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 200])
def test_on_a_terminal_there_are_bars_while_stdout_stays_json(tmp_path: Path, columns: int) -> None:
    command = [sys.executable, "-m", "autoslim.cli", *SLIM, str(tmp_path / "out")]
    seen = run_on_terminal(command, columns=columns, piped_stdout=True, seconds=250.0)
    assert seen.code == 0, seen.raw
    assert json.loads(seen.stdout)["folder"] == str(tmp_path / "out")
    assert load_config(tmp_path / "out").recipe.method == "width"
    # Epochs of this model may be shorter than the time between two drawings.
    for drawn in ("dense model", "evaluating and exporting"):
        assert drawn in seen.raw
    # The bars are gone, the lines stay, and each epoch was a bar and no line.
    assert not any("━" in line or re.search(r"\d/\d epochs", line) for line in seen.lines)
    assert any("width ends: accuracy" in line for line in seen.lines)
