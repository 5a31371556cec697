"""The history as Optuna's samplers see it, and what they make of it."""

from __future__ import annotations

import logging
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from helpers.played_search import Finish, Make, play, replayer

from autoslim.core.result import ErrorClass, TrialResult, TrialState
from autoslim.core.shape import ViTShape
from autoslim.methods.base import Method
from autoslim.search import Proposal, Space, parse_space
from autoslim.search.samplers.optuna_replay import flat_replay, replay
from autoslim.search.samplers.optuna_samplers import POPULATION_SIZE
from autoslim.search.samplers.optuna_study import (
    MAX_STUDY_TRIALS,
    accuracy_and_flops,
    accuracy_at_budgets,
    as_trials,
)


def test_bad_recipes_rank_last_in_a_study_and_lost_trials_are_left_out(
    make: Make, whole: Space, methods: dict[str, Method], shape: ViTShape, finished: Finish
) -> None:
    proposals = [proposal for proposal, _ in play(make(), finished, 8)]
    history = [
        finished(proposals[0]),
        finished(proposals[1], accuracy=None, state=TrialState.STOPPED),
        finished(proposals[2], accuracy=None, state=TrialState.INFEASIBLE),
        finished(proposals[3], accuracy=None, state=TrialState.FAILED, error_class=ErrorClass.DIVERGED),
        finished(proposals[4], accuracy=None, state=TrialState.FAILED, error_class="UnavailableError"),
        finished(proposals[5], accuracy=None, state=TrialState.RUNNING),
        finished(proposals[6], duplicate_of=0),
        finished(proposals[7], accuracy=float("nan")),
    ]
    trials = as_trials(history, accuracy_and_flops(history), replayer(whole, methods, shape))
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "PRUNED", "PRUNED", "RUNNING"]
    assert [bool(trial.constraints) for trial in trials] == [False, False, True, True, False]


def test_recipes_of_another_space_are_left_out_of_a_study(
    make: Make, methods: dict[str, Method], shape: ViTShape, finished: Finish
) -> None:
    history = [finished(proposal) for proposal, _ in play(make(), finished, 12)]
    narrow = parse_space("methods: {width: {flavour: sour}}", source="s.yaml", methods=methods)
    kept = as_trials(history, accuracy_and_flops(history), replayer(narrow, {"width": methods["width"]}, shape))
    assert len(kept) < len(history)
    assert all(trial.params["width.flavour"] == "sour" for trial in kept)
    assert make((0.7,), space=narrow).propose(20, history).plan is not None


def test_a_recipe_that_is_older_than_a_knob_of_no_space_stays_in_a_study(
    make: Make, whole: Space, methods: dict[str, Method], shape: ViTShape, finished: Finish
) -> None:
    recipe = next(proposal.recipe for proposal, _ in play(make(), finished, 8) if proposal.recipe.method == "tokens")
    (step,) = recipe.steps
    assert not methods["tokens"].ranges["filled"].searched
    older = recipe.replace(steps=(step.replace(knobs={name: value for name, value in step.knobs.items() if name != "filled"}),))
    assert replay(older, whole, methods, shape) is not None
    without = recipe.replace(steps=(step.replace(knobs={name: value for name, value in step.knobs.items() if name != "rate"}),))
    assert replay(without, whole, methods, shape) is None


def test_accuracies_of_different_budgets_are_compared_by_their_medians(
    point: Callable[..., TrialResult],
) -> None:
    history = [point(0, 100, 0.9), point(1, 99, 0.8), point(2, 50, 0.6), point(3, 51, 0.4), point(4, 50, 0.5), point(5, 70, 0.7)]
    values = accuracy_at_budgets(history, [100, 50])
    assert {number: round(value, 9) for number, (value,) in values.items()} == {0: 0.05, 1: -0.05, 2: 0.1, 3: -0.1, 4: 0.0}


def test_proposing_warns_and_logs_nothing(make: Make, finished: Finish, caplog: pytest.LogCaptureFixture) -> None:
    level = logging.getLogger("optuna").level
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        warnings.simplefilter("error")
        list(play(make(), finished, 12))
    assert caplog.records == []
    assert logging.getLogger("optuna").level == level


@pytest.mark.slow
def test_tpe_beats_random_when_both_are_solved_onto_the_budgets(make: Make, shape: ViTShape, finished: Finish) -> None:
    def best(sampler: str, seed: int) -> float:
        proposer = make(seed=seed, sampler=sampler)
        history: list[TrialResult] = []
        for number in range(40):
            proposal = proposer.propose(number, history)
            history.append(finished(proposal, accuracy=toy_accuracy(proposal)))
        return statistics.mean(
            max(r.accuracy or 0.0 for r in history if r.recipe.budget == budget) for budget in proposer.budgets.values()
        )

    def toy_accuracy(proposal: Proposal) -> float:
        knobs = proposal.recipe.steps[0].knobs
        miss: float = (proposal.recipe.training.lr - 3e-3) ** 2 * 1e4
        if proposal.recipe.method == "width":
            return 0.7 - miss - {"sweet": 0.0, "sour": 0.02, "salty": 0.05}[knobs["flavour"]]
        miss += 0.05 * abs(knobs["layer_1"] - 3) + 0.05 * abs(knobs["rate"] - 4) + 0.02 * abs(knobs["calls"] - 6)
        return 0.8 - miss

    tpe, random = ([best(sampler, seed) for seed in range(8)] for sampler in ("tpe", "random"))
    assert statistics.mean(tpe) > statistics.mean(random)
    assert sum(t >= r for t, r in zip(tpe, random, strict=True)) >= 5


def test_a_stopped_trial_is_pruned_in_a_study_and_keeps_how_far_it_came(make: Make, finished: Finish) -> None:
    proposer = make()
    history = []
    for number in range(8):
        proposal = proposer.propose(number, history)
        history.append(
            finished(proposal, 0.4 + number / 20, **({"state": TrialState.STOPPED, "epochs": 1.5} if number > 4 else {}))
        )
    replayed = replayer(proposer.space, proposer.methods, proposer.shape)
    single = as_trials(history, accuracy_at_budgets(history, proposer.budgets.values()), replayed)
    pruned = [trial for trial in single if trial.state is optuna.trial.TrialState.PRUNED]
    assert [list(trial.intermediate_values) for trial in pruned] == [[1500]] * 3
    assert {trial.user_attrs["accuracy"] for trial in pruned} == {result.accuracy for result in history[5:]}
    double = as_trials(history, accuracy_and_flops(history), replayed, single_objective=False)
    assert [t.user_attrs["epochs"] for t in double if t.state is optuna.trial.TrialState.PRUNED] == [1.5] * 3
    for number in range(8, 16):
        assert proposer.propose(number, history).plan is not None


@pytest.mark.parametrize("sampler", ["nsga2", "nsga3"])
def test_genetic_samplers_have_generations_though_their_study_is_made_anew(
    make: Make, finished: Finish, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    seen: list[tuple[int, int]] = []
    kind = optuna.samplers.NSGAIISampler if sampler == "nsga2" else optuna.samplers.NSGAIIISampler
    select = kind.select_parent

    def watched(self: Any, study: optuna.Study, generation: int) -> list[Any]:
        parents: list[Any] = select(self, study, generation)
        seen.append((generation, len(parents)))
        return parents

    monkeypatch.setattr(kind, "select_parent", watched)
    *_, (_, history) = play(make((0.8,), sampler=sampler), finished, 4 * POPULATION_SIZE)
    assert {1, 2} <= {generation for generation, _ in seen} <= {1, 2, 3}
    assert {count for _, count in seen} == {POPULATION_SIZE}
    assert len({result.recipe.key for result in history}) > 3 * POPULATION_SIZE


def test_the_gaussian_process_proposes_from_what_all_methods_have(make: Make, finished: Finish) -> None:
    history = [finished(proposal) for proposal, _ in play(make((0.8,), sampler="random"), finished, 10)]
    proposal = make((0.8,), sampler="gp").propose(12, history)
    assert proposal.plan is not None
    assert make((0.8,), sampler="gp").propose(12, history) == proposal


def test_a_flat_replay_has_every_searched_knob_and_the_recipes_own_values(make: Make) -> None:
    proposer = make()
    for number in range(12):
        recipe = proposer.propose(number, []).recipe
        arguments = (proposer.space, proposer.methods, proposer.shape)
        own = replay(recipe, *arguments)
        assert own is not None
        for constant in (True, False):
            flat = flat_replay(recipe, *arguments, constant=constant)
            assert flat is not None
            ranges = [(m, name, knob) for m, knobs in proposer.space.methods.items() for name, knob in knobs.items()]
            searched = {f"{method}.{name}" for method, name, knob in ranges if knob.searched}
            assert flat.params.keys() == searched | {"method", "training.lr"}
            assert {name: flat.params[name] for name in own.params} == own.params


def test_a_study_has_the_best_the_running_and_the_latest_of_many_trials(make: Make, finished: Finish) -> None:
    proposer = make()
    base = finished(proposer.propose(5, []))
    recipe = base.recipe
    history = [base.replace(number=n, recipe=recipe.replace(seed=n), accuracy=(n * 37 % 1000) / 1000) for n in range(1000)]
    history[3] = history[3].replace(state=TrialState.RUNNING, accuracy=None)
    values = accuracy_at_budgets(history, proposer.budgets.values())
    study_trials = as_trials(history, values, replayer(proposer.space, proposer.methods, proposer.shape))
    assert len(study_trials) == MAX_STUDY_TRIALS
    best = sorted((value[0] for value in values.values()), reverse=True)[: MAX_STUDY_TRIALS // 4]
    assert set(best) <= {trial.values[0] for trial in study_trials if trial.values}
    assert sum(trial.state is optuna.trial.TrialState.RUNNING for trial in study_trials) == 1
    assert study_trials[-1].values == values[999]
