"""Every line that a trial logs has its ids."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from helpers.tiny import recipe_of

from autoslim.core import logs
from autoslim.core.recipe import Step
from workers.search.tune_trainable import bind_trial_ids, trial_config


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Restores the process's logging, which a trial changes."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logs.bind(job_id=None, trial=None, method=None)


@pytest.mark.usefixtures("restored_logging")
def test_every_line_of_a_trial_has_its_ids(tmp_path, capsys: pytest.CaptureFixture[str]):
    logs.log_json()
    recipe = recipe_of([Step(method="sit", knobs={})], 10**6)
    bind_trial_ids(trial_config(recipe, number=7, folder=tmp_path, target="50%", common={"job_id": "digits-1"}), recipe)
    logging.getLogger("autoslim.data").warning("an image could not be read", extra={"file": "3.png"})
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["message"] for line in lines] == ["trial begins", "an image could not be read"]
    assert {(line["job_id"], line["trial"], line["method"]) for line in lines} == {("digits-1", 7, "sit")}
    assert (lines[0]["target"], lines[1]["file"]) == ("50%", "3.png")


@pytest.mark.usefixtures("restored_logging")
def test_a_bound_id_can_be_unbound(capsys: pytest.CaptureFixture[str]):
    logs.log_json()
    logs.bind(trial=3)
    logs.bind(trial=None)
    logging.getLogger("workers").warning("x")
    assert "trial" not in json.loads(capsys.readouterr().err)
