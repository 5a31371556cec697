"""Which settings mattered: what was put into the scores is found, and noise is not."""

from __future__ import annotations

import dataclasses
import random

import pytest
from helpers.html_page import rows_of
from helpers.sample_search import make_result

from autoslim.core.recipe import Step, TrainingSettings
from autoslim.core.result import Origin, TrialResult, TrialState
from autoslim.report.search_report.content import SearchContent
from autoslim.report.search_report.importance import FEWEST, Importance, observations, setting_importance
from autoslim.report.search_report.knobs import draw_knobs
from autoslim.store import StoredTrial


def trials(count: int, *, noise: bool = False) -> list[TrialResult]:
    """The score is that of the learning rate, with a little of the method; the ratio has none."""
    draw, found = random.Random(0), []
    for number in range(count):
        lr, ratio, method = draw.random(), draw.random(), draw.choice(["merge", "width"])
        accuracy = draw.random() if noise else 0.5 + 0.4 * lr + (0.05 if method == "merge" else 0.0)
        steps = (Step(method=method, knobs={"ratio": ratio, "ranking": draw.choice(["a", "b"])}),)
        recipe = make_result(0).recipe.replace(steps=steps, training=TrainingSettings(lr=lr))
        found.append(make_result(number, recipe=recipe, accuracy=accuracy, flops=2_000_000_000))
    return found


@pytest.fixture(scope="module")
def found() -> Importance:
    importance = setting_importance(trials(40))
    assert importance is not None
    return importance


def test_what_decides_the_score_comes_first(found: Importance):
    losses = dict(found.losses)
    assert found.losses[0][0] == "training.lr"
    assert losses["training.lr"] > 0.05 > losses["merge.ratio"]
    assert found.explained > 0.7
    assert "FLOPs" not in losses, "all trials have the same"


def test_noise_is_not_explained_and_few_trials_say_nothing():
    found = setting_importance(trials(40, noise=True))
    assert found is not None
    assert found.explained < 0.1
    assert setting_importance(trials(FEWEST - 1)) is None
    assert setting_importance([make_result(0)] * 20) is None


def test_trials_without_a_score_of_their_own_are_left_out():
    results = [make_result(number) for number in range(3)]
    results += [results[0].replace(number=3, duplicate_of=0), results[1].replace(number=4, origin=Origin.REUSED)]
    results += [make_result(5, TrialState.FAILED), make_result(6, TrialState.STOPPED, accuracy=0.5, flops=10**9, epochs=1.0)]
    assert [result.number for result in observations(results)] == [0, 1, 2, 6]


def rendered(content: SearchContent, results: list[TrialResult]) -> str:
    moment = "2026-01-01T00:00:00+00:00"
    stored = tuple(StoredTrial(result=r, target="50%", attempt=1, started_at=moment, ended_at=moment) for r in results)
    return draw_knobs(dataclasses.replace(content, trials=stored))


def test_the_report_has_a_table_only_where_there_is_something_to_explain(content: SearchContent, found: Importance):
    text = rendered(content, trials(40))
    assert f"(cross-validated R² {found.explained:.2f})" in text
    assert rows_of(text, "Settings by importance")[1] == ["training.lr", f"{100 * found.losses[0][1]:.2f}"]
    noise = rendered(content, trials(40, noise=True))
    assert "too little to say which settings mattered" in noise
    assert "<table" not in noise
