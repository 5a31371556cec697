"""The forest: what it learns from, what it expects, and where its candidates come from."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable

import numpy as np
import pytest

from autoslim.core.constraints import CostLimits
from autoslim.core.plan import Plan
from autoslim.core.recipe import TrainingSettings
from autoslim.core.result import Origin, ParetoFront, TrialResult, TrialState, hypervolume
from autoslim.core.shape import ViTShape
from autoslim.methods.base import Method
from autoslim.search import Proposal, Proposer, Space
from autoslim.search.samplers import acquisition
from autoslim.search.samplers.candidates import best_parents
from autoslim.search.samplers.features import Encoder
from autoslim.search.samplers.forest import incumbent_accuracy, is_observation, refit_size
from autoslim.search.samplers.mutation import Mutation, values_of
from autoslim.search.samplers.surrogate import Surrogate

Finish = Callable[..., TrialResult]
Make = Callable[..., Proposer]


@pytest.fixture(scope="module")
def encoder(whole: Space, shape: ViTShape, methods: dict[str, Method]) -> Encoder:
    return Encoder(whole, shape, methods, Plan.dense(shape))


def worth(proposal: Proposal, dense: int) -> float:
    """More FLOPs are better, `width` is better than `tokens`, and each has one knob that matters beside them."""
    (step,) = proposal.recipe.steps
    extra = 0.1 * (step.knobs["flavour"] == "sour") if step.method == "width" else 0.05 * (step.knobs["calls"] > 5) - 0.1
    return 0.5 + 0.3 * (proposal.flops or 0) / dense + extra


def play(proposer: Proposer, finished: Finish, dense: int, trials: int) -> list[TrialResult]:
    history: list[TrialResult] = []
    for number in range(trials):
        proposal = proposer.propose(number, history)
        history.append(finished(proposal, accuracy=worth(proposal, dense)))
    return history


@pytest.mark.slow
def test_it_finds_better_models_than_random_draws(make: Make, finished: Finish, dense: int) -> None:
    def area(sampler: str, seed: int) -> float:
        front = ParetoFront.of(play(make(sampler=sampler, seed=seed), finished, dense, 30))
        return front.hypervolume(dense_flops=dense, chance=0.1)

    seeds = range(3)
    assert statistics.mean(area("forest", s) for s in seeds) > statistics.mean(area("random", s) for s in seeds)


@pytest.mark.slow
def test_late_proposals_have_what_was_learnt_at_either_budget(make: Make, finished: Finish, dense: int) -> None:
    history = play(make(sampler="forest", seed=0), finished, dense, 40)
    late = [result.recipe.steps[0] for result in history[20:] if result.recipe.budget in (int(0.8 * dense), int(0.65 * dense))]
    good = [step for step in late if step.method == "width" and step.knobs["flavour"] == "sour"]
    assert len(good) > 0.6 * len(late)


@pytest.mark.slow
def test_no_recipe_is_proposed_twice(make: Make, finished: Finish, dense: int) -> None:
    keys = [
        result.recipe.key
        for result in play(make(sampler="forest", seed=1), finished, dense, 16)
        if result.origin == Origin.SAMPLER
    ]
    assert len(keys) == len(set(keys))


@pytest.mark.slow
def test_a_dozen_trials_proposed_at_the_same_time_differ(make: Make, finished: Finish, dense: int) -> None:
    history = play(make(sampler="random", seed=2), finished, dense, 12)
    searching, running = make(sampler="forest", seed=2), []
    for number in range(12, 24):
        proposal = searching.propose(number, [*history, *running])
        running.append(finished(proposal, accuracy=None, state=TrialState.RUNNING))
    assert len({result.recipe.key for result in running}) == 12


def test_only_trials_that_say_something_about_their_recipe_are_observations(make: Make, finished: Finish) -> None:
    trial = finished(make(sampler="random").propose(5, []))
    failed = trial.replace(state=TrialState.FAILED, accuracy=None)
    assert is_observation(trial)
    assert is_observation(trial.replace(state=TrialState.STOPPED, epochs=1.0))
    assert is_observation(failed.replace(error_class="DivergedError"))
    assert not is_observation(failed.replace(error_class="WorkerLostError"))
    assert not is_observation(trial.replace(state=TrialState.RUNNING, accuracy=None))
    assert not is_observation(trial.replace(duplicate_of=0))
    assert not is_observation(trial.replace(accuracy=float("nan")))


def test_an_accuracy_after_an_epoch_is_not_taken_for_a_final_one(
    make: Make, finished: Finish, encoder: Encoder, dense: int
) -> None:
    """Half the trials were stopped after an epoch with far less accuracy: the predictions stay near the truth."""
    random = make(sampler="random")
    history = play(random, finished, dense, 20)
    stopped = [
        r.replace(state=TrialState.STOPPED, accuracy=(r.accuracy or 0) - 0.3, epochs=1.0) if r.number % 2 else r for r in history
    ]
    vectors = [encoder.encode(r.recipe, random.builder.plan_of(r.recipe)) for r in history]
    fractions = [1 / 3 if r.state is TrialState.STOPPED else 1.0 for r in stopped]
    predicted = Surrogate(vectors, fractions, [r.accuracy or 0.0 for r in stopped], seed=0).predict(vectors).mean(0)
    truth = np.array([r.accuracy for r in history])
    assert np.abs(predicted - truth).mean() < 0.08
    assert np.corrcoef(predicted, truth)[0, 1] > 0.7


def test_a_forest_ranks_what_it_has_not_seen(encoder: Encoder) -> None:
    chance = np.random.default_rng(0)
    x = chance.uniform(size=(120, 6))
    y = 0.4 + 0.2 * x[:, 0] + 0.1 * (x[:, 3] > 0.5)
    forest = Surrogate(list(x[:80]), [1.0] * 80, list(y[:80]), seed=0)
    assert np.corrcoef(forest.predict(list(x[80:])).mean(0), y[80:])[0, 1] > 0.9


@pytest.mark.parametrize("seed", range(5))
def test_the_gain_of_a_front_is_how_much_its_hypervolume_grows(seed: int) -> None:
    chance = random.Random(seed)
    points = sorted((chance.uniform(10, 100), chance.uniform(0.2, 0.9)) for _ in range(6))
    front = [p for i, p in enumerate(points) if all(q[1] < p[1] for q in points[:i])]
    flops, accuracy = chance.uniform(5, 95), chance.uniform(0.05, 0.95)
    grown = sorted([*(p for p in front if p[0] < flops or p[1] > accuracy), (flops, accuracy)])
    grown = [p for i, p in enumerate(grown) if all(q[1] < p[1] for q in grown[:i])]

    def area(steps: list[tuple[float, float]]) -> float:
        return hypervolume([(int(a * 1000), b) for a, b in steps], dense_flops=100_000, chance=0.1)

    got = acquisition.expected_hypervolume_improvement(
        np.array([[accuracy]]), np.array([flops / 100]), [(a / 100, b) for a, b in front], floor=0.1
    )
    assert got[0] / 0.9 == pytest.approx(area(grown) - area(front), abs=1e-4)


def test_gain_at_a_budget_is_the_mean_of_the_improvements_that_each_tree_predicts() -> None:
    finals = np.array([[0.5, 0.9], [0.7, 0.1]])
    assert acquisition.expected_improvement(finals, 0.6) == pytest.approx([0.05, 0.15])


def test_draws_near_a_recipe_keep_its_method_and_most_of_its_values(
    make: Make, whole: Space, methods: dict[str, Method], shape: ViTShape
) -> None:
    proposal = make(sampler="random", seed=0).propose(0, [])
    values = values_of(proposal.recipe, whole)
    (step,) = proposal.recipe.steps
    kept = moved = 0
    for place in range(200):
        draw = whole.sample(Mutation(values, f"{place}"), methods, shape)
        assert draw.method == step.method
        assert whole.contains(draw, shape)
        same = [
            draw.steps[0].knobs.get(name) == value
            for name, value in step.knobs.items()
            if methods[step.method].ranges[name].searched
        ]
        kept, moved = kept + sum(same), moved + len(same) - sum(same)
    assert kept > moved > 0


def test_a_trial_above_a_limit_is_not_what_a_candidate_has_to_improve_on(point: Callable[..., TrialResult]) -> None:
    history = [point(0, 40, 0.6).replace(params=10), point(1, 50, 0.9).replace(params=30), point(2, 90, 0.95).replace(params=10)]
    assert incumbent_accuracy(history, 50, CostLimits(params=20)) == 0.6
    assert incumbent_accuracy(history, 50, CostLimits()) == 0.9
    assert incumbent_accuracy(history, 30, CostLimits()) == 0.0


def test_parents_are_ahead_of_trials_of_no_more_flops(point: Callable[..., TrialResult]) -> None:
    results = [point(0, 10, 0.5), point(1, 20, 0.4), point(2, 30, 0.7), point(3, 40, 0.71)]
    assert [result.number for result in best_parents(results, lambda result: True)] == [0, 2, 3, 1]
    assert [result.number for result in best_parents(results, lambda result: result.number > 2)] == [3]


def test_a_forest_is_fitted_again_only_after_a_twentieth_more_results() -> None:
    assert [refit_size(count) for count in (1, 6, 19, 20)] == [1, 6, 19, 20]
    sizes = {refit_size(count) for count in range(1, 4001)}
    assert len(sizes) < 140
    assert all(0.94 * count < refit_size(count) <= count for count in range(20, 4001))


def test_vectors_do_not_grow_with_the_depth(whole: Space, shape: ViTShape, methods: dict[str, Method]) -> None:
    lengths = set()
    for depth in (8, 24):
        deep = shape.replace(depth=depth)
        proposer = Proposer(
            space=whole, shape=deep, budgets={}, training=TrainingSettings(), seed=0, sampler="random", methods=methods
        )
        proposal = proposer.propose(0, [])
        assert proposal.plan is not None
        encoder = Encoder(whole, deep, methods, Plan.dense(deep))
        lengths.add(len(encoder.encode(proposal.recipe, proposal.plan)))
    assert len(lengths) == 1
