"""The sentence that says why this model, and the knee and neighbours beside it."""

from __future__ import annotations

from autoslim.core.result import Origin
from autoslim.search import knee_point, offers, reason


def test_the_knee_is_where_the_front_bends_most(point):
    front = [point(0, 10, 0.1), point(1, 20, 0.6), point(2, 60, 0.7), point(3, 100, 0.9)]
    assert knee_point(front) == front[1]
    assert knee_point(front[:2]) is None


def test_the_sentence_names_the_measure_the_field_and_the_next_best(point):
    results = [point(0, 50, 0.71), point(1, 50, 0.74), point(2, 30, 0.6), point(3, 70, 0.8), point(4, 20, 0.2)]
    results[0] = results[0].replace(
        recipe=results[0].recipe.replace(steps=(results[0].recipe.steps[0].replace(knobs={"keep": 1}),))
    )
    found = reason(results, results[1], 50)
    assert found.sentence == (
        "trial 1 (width) is taken, because it has the highest accuracy on the validation images of 2 complete trials at this "
        "budget, 74.00%; the best other recipe there, trial 0 (width), has 71.00%"
    )
    assert found.cheaper is not None
    assert found.costlier is not None
    assert (found.cheaper.number, found.costlier.number, found.knee) == (2, 3, 2)
    assert offers(found) == [
        "the front's next cheaper one: trial 2 (width), 60.00% at 30, its knee",
        "the front's next dearer one: trial 3 (width), 80.00% at 70",
    ]


def test_a_model_that_was_not_solved_onto_the_budget_is_said_so(point):
    results = [point(0, 30, 0.5)]
    found = reason(results, results[0], 50)
    assert "no trial solved onto this budget is complete" in found.sentence
    assert (found.cheaper, found.costlier, found.knee) == (None, None, None)


def test_a_model_tuned_longer_over_seeds_is_said_so(point):
    finals = [point(n, 50, 0.7 + n / 100, origin=Origin.REFINEMENT) for n in range(3)]
    finals = [r.replace(recipe=r.recipe.replace(seed=r.number, training=r.recipe.training.replace(epochs=9.0))) for r in finals]
    assert "the best mean of 3 seeds" in reason(finals, finals[2], 50).sentence
    assert "tuned for 9 epochs in the end" in reason(finals[:1], finals[0], 50).sentence
