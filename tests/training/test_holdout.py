"""Folders are evaluated by a process of their own, which ends where it hangs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autoslim.data.dataset import MANIFEST
from autoslim.errors import StalledError
from autoslim.training.holdout import evaluate_in_subprocess


def test_an_evaluation_that_hangs_ends_and_says_of_what_it_was_and_where_it_hung(tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    probe.mkdir()
    # Who opens it for reading waits for somebody who writes.
    os.mkfifo(probe / MANIFEST)
    with pytest.raises(StalledError) as found:
        evaluate_in_subprocess(tmp_path / "model", tmp_path, "test", dense=tmp_path, probe=probe, stall_seconds=0.3)
    assert str(found.value) == (
        f"stalled: the evaluation of {tmp_path}/model gave no sign of life for 0.005 minutes (--stall-minutes 0.005)"
    )
    assert "in open_dataset" in found.value.stacks
