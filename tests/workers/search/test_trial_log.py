"""A trial's log says whose it is."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from helpers.tiny import recipe_of

from autoslim.core import logs
from autoslim.core.recipe import Step
from workers.search.tune_trainable import log_trial, trial_config


@pytest.fixture
def untouched() -> Iterator[None]:
    """What a trial does to its process's logging is taken back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logs.bind(job_id=None, trial=None, method=None)


def test_every_line_of_a_trial_has_its_ids(untouched: None, tmp_path, capsys: pytest.CaptureFixture[str]):
    logs.log_json()
    recipe = recipe_of([Step(method="sit", knobs={})], 10**6)
    log_trial(trial_config(recipe, number=7, folder=tmp_path, budget_label="50%", common={"job": "digits-1"}), recipe)
    logging.getLogger("autoslim.data").warning("an image could not be read", extra={"file": "3.png"})
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["message"] for line in lines] == ["trial begins", "an image could not be read"]
    assert {(line["job_id"], line["trial"], line["method"]) for line in lines} == {("digits-1", 7, "sit")}
    assert (lines[0]["budget"], lines[1]["file"]) == ("50%", "3.png")


def test_what_is_bound_can_be_taken_away_again(untouched: None, capsys: pytest.CaptureFixture[str]):
    logs.log_json()
    logs.bind(trial=3)
    logs.bind(trial=None)
    logging.getLogger("workers").warning("x")
    assert "trial" not in json.loads(capsys.readouterr().err)
