"""Keyword arguments are the settings of the command line."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import autoslim
from autoslim.api.settings import new_job, resumed_job
from autoslim.config import Commands, JobSpec, Placement, settings_of
from autoslim.core.job import Resources, SearchJob
from autoslim.errors import RequestError

NEEDED = {"model": "deit_tiny_patch16_224", "data": "digits", "flops": "50%"}


def job(**settings: object) -> SearchJob:
    return new_job({**NEEDED, **settings}, Path("/out"))


def test_settings_are_those_of_the_command_line() -> None:
    made = job(
        trials=7, epochs=5, from_scratch=True, model_args={"depth": 6}, speed=("eager",), space=Path("smoke.yaml"), concurrency=2,
        resources="cpu=2", address="local", flops=("70%", 1_300_000_000),
    )  # fmt: skip
    assert (made.trials, made.training.epochs, made.concurrency, made.address) == (7, 5.0, 2, "local")
    assert (made.model.weights, made.model.args) == ("scratch", {"depth": 6})
    assert [budget.label for budget in made.budgets] == ["70%", "1300000000"]
    assert (made.output, made.resources) == ("/out", Resources.parse("cpu=2"))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"epochs": 0}, "epochs is 0; allowed: above 0"),
        ({"trails": 3}, "trails is not a field of a job; did you mean trials"),
        ({"concurrency": 0}, "concurrency is 0; allowed: 1 and more"),
        ({"from_scratch": True, "weights": "scratch"}, "weights and from_scratch exclude each other"),
        ({"flops": "0.5"}, "a share is written as 50%"),
    ],
)
def test_a_wrong_setting_is_named_as_it_was_written(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(RequestError, match=problem):
        job(**settings)


def test_a_resumed_search_may_get_more_trials_and_no_other_model() -> None:
    started = job(trials=4, address="local")
    more = resumed_job(started, {**NEEDED, "trials": 9}, Path("/out"))
    assert (more.trials, more.id, more.address) == (9, started.id, "local")
    with pytest.raises(RequestError, match=r"epochs is 2\.0, but this search started with 10\.0"):
        resumed_job(started.replace(training=started.training.replace(epochs=10.0)), {**NEEDED, "epochs": 2.0}, Path("/out"))


def test_the_signatures_list_every_setting_for_completion() -> None:
    searched = inspect.signature(autoslim.run_search).parameters
    have = (Commands.SLIM, Commands.SEARCH)
    assert set(searched) >= {name for name, each in settings_of(JobSpec).items() if each.rules.commands in have}
    assert "priority" not in searched
    assert {"concurrency", "address", "resources"} <= set(searched)
    assert searched["epochs"].default == settings_of(JobSpec)["epochs"].default
    slimmed = inspect.signature(autoslim.slim).parameters
    assert "epochs" in slimmed
    assert not {"trials", "concurrency"} & set(slimmed)
    assert "output" in settings_of(Placement)
