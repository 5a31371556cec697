"""The sentence that says why this model, and the knee and neighbours beside it."""

from __future__ import annotations

from autoslim.core.constraints import CostLimits
from autoslim.core.recipe import Step
from autoslim.core.result import Origin
from autoslim.search import explain, knee_point


def test_the_knee_is_where_the_front_bends_most(point):
    front = [point(0, 10, 0.1), point(1, 20, 0.6), point(2, 60, 0.7), point(3, 100, 0.9)]
    assert knee_point(front) == front[1]
    assert knee_point(front[:2]) is None


def test_the_sentence_names_the_measure_the_field_and_the_next_best(point):
    results = [point(0, 50, 0.71), point(1, 50, 0.74), point(2, 30, 0.6), point(3, 70, 0.8), point(4, 20, 0.2)]
    results[0] = results[0].replace(
        recipe=results[0].recipe.replace(steps=(results[0].recipe.steps[0].replace(knobs={"keep": 1}),))
    )
    found = explain(results, results[1], 50)
    assert found.sentence == (
        "trial 1 (width) is the most accurate of the 4 complete trials within this budget, 74.00% on the validation images; "
        "it uses 100.0% of the budget; the best other recipe, trial 0 (width), has 71.00%"
    )
    assert found.next_cheaper is not None
    assert found.next_costlier is not None
    assert (found.next_cheaper.number, found.next_costlier.number, found.knee) == (2, 3, 2)
    assert found.describe_neighbours() == [
        "next cheaper on the front: trial 2 (width), 60.00% at 30, the knee of the front",
        "next costlier on the front: trial 3 (width), 80.00% at 70",
    ]


def test_accuracies_have_their_intervals_where_the_images_are_known(point):
    results = [point(0, 50, 0.74), point(1, 30, 0.6)]
    found = explain(results, results[0], 50, images=500)
    assert "within this budget, 74.00% (70.0% to 77.7%) on the validation images; " in found.sentence
    assert found.describe_neighbours(images=500) == ["next cheaper on the front: trial 1 (width), 60.00% (55.6% to 64.2%) at 30"]


def test_a_model_that_uses_a_part_of_the_budget_says_how_much(point):
    results = [point(0, 30, 0.5)]
    found = explain(results, results[0], 50)
    assert "is the only complete trial within this budget" in found.sentence
    assert "it uses 60.0% of the budget" in found.sentence
    assert (found.budget_share, found.next_cheaper, found.next_costlier, found.knee) == (0.6, None, None, None)


def test_a_trial_above_a_limit_is_not_counted_among_those_within_the_budget(point):
    results = [point(0, 30, 0.5).replace(params=10), point(1, 40, 0.6).replace(params=30)]
    assert "is the only complete trial" in explain(results, results[0], 50, CostLimits(params=20)).sentence


def test_a_refined_model_says_for_how_many_epochs_and_how_its_seeds_did(point):
    finals = [point(n, 50, 0.7 + n / 100, origin=Origin.REFINEMENT) for n in range(3)]
    finals = [r.replace(recipe=r.recipe.replace(seed=r.number, training=r.recipe.training.replace(epochs=9.0))) for r in finals]
    assert "with 3 seeds, 71.00% on average" in explain(finals, finals[2], 50).sentence
    assert "its recipe was refined for 9 epochs" in explain(finals[:1], finals[0], 50).sentence


def test_seeds_of_a_less_accurate_refined_recipe_are_not_counted_among_the_trials_compared(point):
    def refined(number: int, accuracy: float, keep: float):
        result = point(number, 50, accuracy, origin=Origin.REFINEMENT)
        return result.replace(recipe=result.recipe.replace(seed=number, steps=(Step(method="width", knobs={"keep": keep}),)))

    results = [refined(0, 0.70, 0.5), refined(1, 0.72, 0.5), refined(2, 0.60, 0.6), refined(3, 0.75, 0.6), point(4, 40, 0.5)]
    sentence = explain(results, results[1], 50).sentence
    assert (
        "the most accurate of the 3 complete trials within this budget, not counting 2 trials of less accurate refined recipes"
        in sentence
    )
