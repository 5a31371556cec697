"""A search whose trials are chains of two methods."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.workers_command import SEARCH, Search

import autoslim
from autoslim.core.result import TrialState
from autoslim.core.urls import default_url
from autoslim.export.artifact import load_config
from autoslim.store import Store

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(280)]


def test_a_chain_whose_second_step_is_solved_again_is_counted_and_delivered(tmp_path: Path) -> None:
    """The finished knobs differ from the proposed ones, which name the trial."""
    space, output = tmp_path / "chain.yaml", tmp_path / "run"
    space.write_text(CHAIN)
    flags = [*SEARCH, "--space", str(space), "--trials", "3", "--concurrency", "1", "--final-share", "0"]
    search = Search(*flags, "--output", str(output))
    assert search.end() == 0, search.text
    with Store(default_url(output)) as store:
        (stored,) = store.jobs()
        results = store.trials(stored.job.id)
    assert {(result.recipe.method, result.state) for result in results} == {("width+merge", TrialState.COMPLETE)}, search.text
    delivered = {label: load_config(output / "models" / label) for label in ("70%", "50%")}
    for label, config in delivered.items():
        flops = autoslim.count_flops(autoslim.load(output / "models" / label), config.shape.image_size)
        assert flops == config.flops.predicted <= config.flops.budget
    # Otherwise nothing here was solved again.
    assert {config.recipe.key for config in delivered.values()} - {result.recipe.key for result in results}


CHAIN = """\
description: One chain.
methods:
  width:
    cost_power: 0.5
  merge:
chains:
  - [width, merge]
training:
  lr: 0.001
"""
