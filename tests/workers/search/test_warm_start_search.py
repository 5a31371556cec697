"""A real search, and a second one whose budget it has a model for."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.workers_command import SEARCH, Search

import autoslim
from autoslim.core.result import Origin, TrialResult
from autoslim.core.urls import default_url
from autoslim.export.artifact import load_config
from autoslim.store import Store

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

QUICK = ("--trials", "4", "--final-share", "0", "--speed", "none", "--concurrency", "2")
ONE_BUDGET = [flag for place, flag in enumerate(SEARCH) if place not in (SEARCH.index("70%") - 1, SEARCH.index("70%"))]


def trials_in(output: Path) -> list[TrialResult]:
    with Store(default_url(output)) as store:
        (stored,) = store.jobs()
        return store.trials(stored.job.id)


def test_a_budget_that_an_earlier_search_has_a_model_for_needs_no_training(tmp_path: Path) -> None:
    first = Search(*SEARCH, *QUICK, "--output", str(tmp_path / "first"))
    assert first.end() == 0, first.text
    second = Search(*ONE_BUDGET, *QUICK, "--reuse", str(tmp_path / "first"), "--output", str(tmp_path / "second"))
    assert second.end() == 0, second.text
    assert "50% takes the model of trial" in second.text
    assert ": no trials" in second.text
    assert " starts: " in first.text
    assert " starts: " not in second.text and "dense model: epoch" not in second.text

    (reused,) = trials_in(tmp_path / "second")
    before, now = (tmp_path / name / "models" / "50%" for name in ("first", "second"))
    chosen = next(result for result in trials_in(tmp_path / "first") if result.recipe == reused.recipe)
    assert (reused.origin, reused.accuracy, reused.flops, reused.epochs) == (Origin.REUSED, chosen.accuracy, chosen.flops, 0.0)
    assert reused.reused_from is not None and reused.reused_from.startswith(f"trial {chosen.number} of digits-")
    assert (now / "model.safetensors").read_bytes() == (before / "model.safetensors").read_bytes()
    assert load_config(now).accuracy == load_config(before).accuracy
    assert autoslim.count_flops(autoslim.load(now), 16) == reused.flops
    assert f"comes from an earlier search, where it was {reused.reused_from}" in (now / "README.md").read_text()
    assert f"comes from an earlier search, where it was {reused.reused_from}" in second.text
    assert (now / "model.onnx").is_file()

    again = Search("--resume", "--output", str(tmp_path / "second"))
    assert again.end() == 0, again.text
    assert trials_in(tmp_path / "second") == [reused]
