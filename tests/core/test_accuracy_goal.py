"""The accuracy that a search holds on to: how it is written, what it comes to, which model keeps to it, and how sure that is."""

from __future__ import annotations

import pytest
from helpers.sample_search import DENSE, make_job, make_result, make_results

from autoslim.core.accuracy_drop import AccuracyDrop
from autoslim.core.accuracy_goal import AccuracyGoal, Floor, parse_least
from autoslim.core.interval import paired_difference
from autoslim.core.result import Origin
from autoslim.core.score import ACCURACY, AGREEMENT
from autoslim.core.selection import best_within_budgets, cheapest_above, eligible
from autoslim.errors import RequestError
from autoslim.search import explain_floor, why_missed


@pytest.mark.parametrize(("text", "share"), [("80%", 0.8), ("0.8", 0.8), ("99.5 %", 0.995), ("100%", 1.0), (".75", 0.75)])
def test_a_share_is_read_as_people_write_it(text, share):
    assert parse_least(text) == pytest.approx(share)
    assert AccuracyGoal(least=parse_least(text)).label == f"at-least-{100 * share:g}%"


@pytest.mark.parametrize("text", ["80", "0", "0%", "101%", "1.2", "-5%", "eighty", ""])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(ValueError, match=r"allowed: a share of the images such as 80% or 0\.8"):
        parse_least(text)


@pytest.mark.parametrize("fields", [{}, {"max_drop": 1.0, "least": 0.8}, {"max_drop": -0.1}, {"max_drop": 100.0}, {"least": 0.0}])
def test_a_goal_is_one_of_both_within_its_range(fields):
    with pytest.raises(RequestError, match=r"--max-drop|--min-accuracy"):
        AccuracyGoal(**fields)


def test_a_floor_is_not_missed_by_the_rounding_of_binary_numbers():
    floor = AccuracyGoal(max_drop=50.0).floor(0.8)
    assert floor.least > 0.3
    assert floor.keeps(0.3)
    assert not floor.keeps(0.2999)
    assert not floor.keeps(None)


def test_words_are_those_of_the_score():
    assert AccuracyGoal(max_drop=1.0).words() == "at most 1 point below the dense model"
    assert AccuracyGoal(max_drop=1.5).words() == "at most 1.5 points below the dense model"
    assert AccuracyGoal(max_drop=2.0).words(AGREEMENT) == "at most 0.02 below the dense model"
    assert AccuracyGoal(least=0.8).words(ACCURACY) == "at least 80%"
    assert AccuracyGoal(least=0.97).words(AGREEMENT) == "at least 0.97"


@pytest.mark.parametrize("drop", [3.0, 5.0, 20.0])
def test_the_cheapest_that_keeps_is_selected_beside_the_budgets(drop):
    results, job = make_results(), make_job(goal=AccuracyGoal(max_drop=drop))
    floor = job.floor(DENSE.dense_accuracy)
    assert floor is not None
    able = [result for result in eligible(results) if result.accuracy >= DENSE.dense_accuracy - drop / 100]
    selected = best_within_budgets(results, job.budget_flops(DENSE.dense_flops), job.limits, floor)
    assert selected[f"drop-{drop:g}"].flops == min(result.flops for result in able)
    assert job.labels == ("50%", "70%", "3G", f"drop-{drop:g}")


def test_a_recipe_of_several_seeds_keeps_where_its_mean_does():
    lucky = make_result(0, accuracy=0.91, origin=Origin.REFINEMENT, flops=100)
    unlucky = lucky.replace(number=1, accuracy=0.87, recipe=lucky.recipe.replace(seed=lucky.recipe.seed + 1))
    sure = make_result(2, accuracy=0.905, flops=200)
    assert cheapest_above([lucky, unlucky, sure], Floor(label="drop-1", least=0.90)) == sure
    assert cheapest_above([lucky, unlucky, sure], Floor(label="drop-1", least=0.88)) == lucky


def test_the_choice_is_explained_and_a_miss_names_the_nearest():
    results, goal = make_results(), AccuracyGoal(max_drop=5.0)
    selected = cheapest_above(results, goal.floor(DENSE.dense_accuracy))
    assert selected is not None
    sentence = explain_floor(results, selected, goal, DENSE).sentence
    assert f"trial {selected.number} (" in sentence
    assert "complete trials with an accuracy at most 5 points below the dense model's 94.10%" in sentence
    assert f"{selected.flops / DENSE.dense_flops:.1%} of the dense model's" in sentence
    best = max(eligible(results), key=lambda result: result.accuracy)
    missed = why_missed(results, AccuracyGoal(max_drop=0.0), DENSE)
    assert f"the nearest, trial {best.number} (" in missed
    assert f"{100 * (DENSE.dense_accuracy - best.accuracy):.2f} points of validation accuracy too little" in missed
    assert why_missed([], AccuracyGoal(least=0.99), DENSE) == "no complete trial has an accuracy of at least 99%"


@pytest.mark.parametrize(
    ("gained", "lost", "allowed", "verdicts"),
    [
        (0, 100, 0.02, ["the whole interval is beyond the allowed 2"]),
        (10, 30, 0.02, ["the allowed 2 lie in the interval"]),
        (10, 30, 0.05, ["the whole interval is within the allowed 5"]),
        (20, 22, 0.02, ["within the allowed 2", "a drop of 0 lies in it, too: it is within the noise"]),
    ],
)
def test_the_interval_says_whether_the_drop_is_within_the_noise(gained, lost, allowed, verdicts):
    drop = paired_difference(gained=lost, lost=gained, images=1000)
    text = AccuracyDrop(split="validation", images=1000, drop=drop, allowed=allowed).describe()
    assert text.startswith(f"{(lost - gained) / 10:.2f} points lost on 1,000 validation images (95 %: ")
    assert [verdict in text for verdict in verdicts] == [True] * len(verdicts)
    assert ("within the noise" in text) is (drop.low <= 0)
