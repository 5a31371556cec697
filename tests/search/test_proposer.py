from __future__ import annotations

import logging
import os
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoslim.core.recipe import Recipe, Training
from autoslim.core.result import ErrorClass, Origin, Target, TrialResult, TrialState
from autoslim.core.shape import ViTShape
from autoslim.cost.flops import predict
from autoslim.errors import BudgetError, RequestError, SpaceError, UnsupportedModelError
from autoslim.methods import METHODS
from autoslim.methods.base import Method
from autoslim.search import Proposal, Proposer, Space, load_space, parse_space
from autoslim.search.samplers.optuna_replay import Replay, flat_replay, replay
from autoslim.search.samplers.optuna_samplers import POPULATION_SIZE
from autoslim.search.samplers.optuna_study import (
    MAX_STUDY_TRIALS,
    accuracy_and_flops,
    accuracy_at_budgets,
    as_trials,
    build_study,
)
from autoslim.search.space.space import Sample

Finish = Callable[..., TrialResult]
Make = Callable[..., Proposer]
NARROW = """
methods:
  tokens: {cuts: [1, 2], layer_1: {low: 0.1, high: 0.5}, layer_2: {low: 0.4, high: 0.8}, gone_1: {low: 0.1, high: 0.7}}
  width: {keep: {low: 0.35, high: 0.95}}
"""


def replayer(space: Space, methods: Mapping[str, Method], shape: ViTShape) -> Callable[[Recipe], Replay | None]:
    return lambda recipe: replay(recipe, space, methods, shape)


def play(proposer: Proposer, finished: Finish, trials: int) -> Iterator[tuple[Proposal, list[TrialResult]]]:
    """A search whose trials answer with a number made from their recipe."""
    history: list[TrialResult] = []
    for number in range(trials):
        proposal = proposer.propose(number, history)
        yield proposal, list(history)
        history.append(finished(proposal, accuracy=int(proposal.recipe.key, 16) % 1000 / 1000))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**40),
    text=st.sampled_from([NARROW, "methods: {tokens: , width: }"]),
    sampler=st.sampled_from(["tpe", "forest", "random"]),
)
def test_every_proposal_is_within_its_budget_and_its_space(
    make: Make, methods: dict[str, Method], shape: ViTShape, finished: Finish, seed: int, text: str, sampler: str
) -> None:
    space = parse_space(text, source="s.yaml", methods=methods)
    proposer = make(space=space, seed=seed, sampler=sampler)
    history = []
    for proposal, _ in play(proposer, finished, 20):
        assert proposal.infeasible is None
        assert proposal.plan is not None
        assert proposal.flops == predict(shape, proposal.plan).total
        assert proposal.flops <= proposal.recipe.budget
        assert proposal.recipe.budget == proposer.budgets.get(proposal.target, proposal.flops)
        (step,) = proposal.recipe.steps
        assert space.contains(Sample(method=step.method, knobs=step.knobs, training={}), shape)
        history.append(finished(proposal))
    told = as_trials(history, accuracy_and_flops(history), replayer(space, methods, shape), single_objective=False)
    assert len(told) == len(history)
    # Optuna checks each against its distribution.
    build_study(told, ["maximize", "minimize"], optuna.samplers.RandomSampler(seed=0))


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**40), name=st.sampled_from(["default", "smoke"]))
def test_real_methods_are_solved_onto_their_budgets(shape: ViTShape, dense: int, finished: Finish, seed: int, name: str) -> None:
    budgets = {"75%": int(0.75 * dense), "55%": int(0.55 * dense)}
    proposer = Proposer(space=load_space(name), shape=shape, budgets=budgets, training=Training(), seed=seed)
    history = []
    for proposal, _ in play(proposer, finished, 16):
        assert proposal.flops is not None
        assert proposal.target == Target.FREE or 0.95 * budgets[proposal.target] < proposal.flops <= budgets[proposal.target]
        assert proposal.recipe.seed == seed
        history.append(finished(proposal))
    assert {result.recipe.method for result in history} == set(proposer.space.methods)
    told = as_trials(history, accuracy_and_flops(history), replayer(proposer.space, METHODS, shape))
    assert len(told) == len(history)


@pytest.mark.parametrize("sampler", ["tpe", "forest", "nsga2", "nsga3", "random"])
def test_proposal_is_told_by_seed_number_and_history_alone(make: Make, finished: Finish, sampler: str) -> None:
    proposer = make(sampler=sampler)
    for proposal, history in play(proposer, finished, 16):
        stored = [TrialResult.from_json(result.to_json()) for result in reversed(history)]
        assert make(sampler=sampler).propose(proposal.number, stored) == proposal
    assert make(seed=1).propose(3, []) != make(seed=2).propose(3, [])


def test_own_entry_in_the_history_changes_nothing(make: Make, finished: Finish) -> None:
    proposer = make()
    for proposal, history in play(proposer, finished, 12):
        assert proposer.propose(proposal.number, [*history, finished(proposal)]) == proposal


@pytest.mark.slow
def test_proposal_does_not_depend_on_the_order_of_hashes() -> None:
    script = """
import sys
from autoslim.search import *
from autoslim.core.recipe import Training
from autoslim.core.result import ErrorClass, Origin, Target, TrialResult, TrialState
from autoslim.core.shape import ViTShape
shape = ViTShape.from_json(sys.stdin.read())
proposer = Proposer(space=load_space("default"), shape=shape, budgets={"a": 10**7}, training=Training(), seed=3)
history = []
for number in range(14):
    p = proposer.propose(number, history)
    answer = {"state": TrialState.COMPLETE, "accuracy": int(p.recipe.key, 16) % 1000 / 1000, "flops": p.flops}
    history.append(TrialResult(number=number, recipe=p.recipe, origin=p.origin, **answer))
print([r.recipe.key for r in history])
"""
    shape = ViTShape(
        image_size=(32, 32), grid=(4, 4), patch_inputs=192, prefix_tokens=1, depth=8, dim=48, heads=3, head_width=16, hidden=192,
        classes=10, classifiers=1, pool="token", pre_norm=False, final_norm=True, pooled_norm=False, qk_norm=False,
    )  # fmt: skip
    runs = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    printed = [run.communicate(shape.to_json())[0] for run in runs]
    assert printed[0]
    assert printed[0] == printed[1]


def test_controls_are_blind_to_the_history(make: Make, finished: Finish) -> None:
    proposer = make()
    history = [finished(proposer.propose(number, []), accuracy=0.1 * number) for number in range(2, 12)]
    for number in range(2):
        control = proposer.propose(number, history)
        assert control.origin == Origin.CONTROL
        assert control == proposer.propose(number, [])


def test_recipe_that_is_known_is_drawn_again(make: Make, finished: Finish) -> None:
    proposer = make()
    first = proposer.propose(5, [])
    elsewhere = finished(first, number=99, state=TrialState.FAILED, accuracy=None)
    assert proposer.propose(5, [elsewhere]).recipe.key != first.recipe.key


def test_space_of_a_single_recipe_gives_back_the_duplicate(make: Make, methods: dict[str, Method], finished: Finish) -> None:
    space = parse_space("methods: {width: {keep: 0.4, flavour: sour, bold: true}}", source="s.yaml", methods=methods)
    proposer = make((0.7,), space=space)
    keys = [proposal.recipe.key for proposal, _ in play(proposer, finished, 4) if proposal.target != Target.FREE]
    assert len(set(keys)) == 1


def test_running_trials_push_parallel_proposals_apart(make: Make, finished: Finish) -> None:
    proposer = make()
    *_, (_, history) = play(proposer, finished, 25)
    running: list[TrialResult] = []
    for number in range(24, 30):
        proposal = proposer.propose(number, history + running)
        running.append(finished(proposal, accuracy=None, state=TrialState.RUNNING))
    assert len({result.recipe.key for result in running}) == 6


def test_method_whose_recipes_all_leave_the_space_is_never_proposed(make: Make, methods: dict[str, Method]) -> None:
    text = "methods: {tokens: {cuts: 2, layer_1: {low: 0.5, high: 0.55}, layer_2: {low: 0.5, high: 0.55}}, width: }"
    proposer = make(space=parse_space(text, source="tight.yaml", methods=methods))
    assert proposer.feasible_methods == {"80%": ["width"], "65%": ["width"], Target.FREE: ["width"]}
    assert all(proposer.propose(number, []).recipe.method == "width" for number in range(12))


def test_draw_that_its_method_moves_out_of_the_space_is_drawn_again(make: Make, methods: dict[str, Method]) -> None:
    proposer = make(space=parse_space("methods: {tokens: {cuts: 2}}", source="s.yaml", methods=methods))
    knobs = [proposer.propose(number, []).recipe.steps[0].knobs for number in range(30)]
    assert all(chosen["cuts"] == 2 and chosen["layer_1"] < chosen["layer_2"] for chosen in knobs)


def test_draws_that_cannot_be_solved_come_back_with_the_reason(make: Make, methods: dict[str, Method]) -> None:
    text = "methods: {tokens: {cuts: 1, layer_1: {low: 0.1, high: 1.0}, gone_1: {low: 0.2, high: 0.5}}}"
    proposer = make((0.61,), space=parse_space(text, source="s.yaml", methods=methods))
    proposals = [proposer.propose(number, []) for number in range(40)]
    for proposal in proposals:
        if proposal.infeasible is None:
            assert proposal.flops is not None
            assert proposal.flops <= proposal.recipe.budget
        else:
            assert proposal.plan is None
            assert "tokens: this recipe's cheapest form" in proposal.infeasible
            assert Proposal.from_json(proposal.to_json()) == proposal
    assert {proposal.infeasible is None for proposal in proposals if proposal.target != Target.FREE} == {True, False}


def test_budget_that_no_method_reaches_names_what_each_can_reach(make: Make) -> None:
    with pytest.raises(BudgetError, match=r"budget 1% .*reaches tokens .* to .*, width .* to"):
        make((0.01,))


def test_unknown_sampler_is_refused(make: Make) -> None:
    with pytest.raises(RequestError, match="no sampler 'cmaes'; allowed: forest, tpe, nsga2, nsga3, gp, random"):
        make(sampler="cmaes")


def test_space_without_a_recipe_is_refused(make: Make, methods: dict[str, Method]) -> None:
    text = "methods: {tokens: {cuts: 2, layer_1: 0.5, layer_2: 0.5}}"
    with pytest.raises(SpaceError, match="widen"):
        make(space=parse_space(text, source="s.yaml", methods=methods))


def test_space_stored_by_another_version_is_refused(make: Make, whole: Space) -> None:
    older = {name: knob for name, knob in whole.methods["width"].items() if name != "bold"}
    with pytest.raises(SpaceError, match=r"methods\.width is not of this version"):
        make(space=whole.replace(methods={"width": older}))
    with pytest.raises(SpaceError, match=r"methods\.depth"):
        make(space=whole.replace(methods={"depth": older}))


def test_method_that_cannot_slim_the_model_is_left_out(shape: ViTShape, dense: int) -> None:
    normed = shape.replace(qk_norm=True)
    proposer = Proposer(space=load_space("default"), shape=normed, budgets={"a": int(0.7 * dense)}, training=Training(), seed=0)
    assert list(proposer.left_out) == ["vit_slim"]
    others = [name for name in METHODS if name != "vit_slim"]
    assert proposer.feasible_methods == {"a": others, Target.FREE: others}
    with pytest.raises(UnsupportedModelError, match="q_norm"):
        Proposer(space=load_space("vit_slim"), shape=normed, budgets={"a": dense}, training=Training(), seed=0)


def test_training_settings_of_the_space_replace_the_jobs(make: Make) -> None:
    recipes = [make().propose(number, []).recipe for number in range(8)]
    assert len({recipe.training.lr for recipe in recipes}) == 8
    assert all(1e-4 <= recipe.training.lr <= 1e-2 and recipe.training.epochs == 3.0 for recipe in recipes)


def test_bad_trials_are_told_as_bad_and_lost_ones_not_at_all(
    make: Make, whole: Space, methods: dict[str, Method], shape: ViTShape, finished: Finish
) -> None:
    proposals = [proposal for proposal, _ in play(make(), finished, 8)]
    history = [
        finished(proposals[0]),
        finished(proposals[1], accuracy=None, state=TrialState.STOPPED),
        finished(proposals[2], accuracy=None, state=TrialState.INFEASIBLE),
        finished(proposals[3], accuracy=None, state=TrialState.FAILED, error_class=ErrorClass.DIVERGED),
        finished(proposals[4], accuracy=None, state=TrialState.FAILED, error_class="ClusterError"),
        finished(proposals[5], accuracy=None, state=TrialState.RUNNING),
        finished(proposals[6], duplicate_of=0),
        finished(proposals[7], accuracy=float("nan")),
    ]
    trials = as_trials(history, accuracy_and_flops(history), replayer(whole, methods, shape))
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "PRUNED", "PRUNED", "RUNNING"]
    assert [bool(trial.constraints) for trial in trials] == [False, False, True, True, False]


def test_recipes_from_another_space_are_not_learnt_from(
    make: Make, methods: dict[str, Method], shape: ViTShape, finished: Finish
) -> None:
    history = [finished(proposal) for proposal, _ in play(make(), finished, 12)]
    narrow = parse_space("methods: {width: {flavour: sour}}", source="s.yaml", methods=methods)
    kept = as_trials(history, accuracy_and_flops(history), replayer(narrow, {"width": methods["width"]}, shape))
    assert len(kept) < len(history)
    assert all(trial.params["width.flavour"] == "sour" for trial in kept)
    assert make((0.7,), space=narrow).propose(20, history).plan is not None


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


def test_a_stopped_trial_is_told_as_pruned_with_how_far_it_came(make: Make, finished: Finish) -> None:
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


def test_a_study_is_told_the_best_the_running_and_the_latest_of_many_trials(make: Make, finished: Finish) -> None:
    proposer = make()
    base = finished(proposer.propose(5, []))
    recipe = base.recipe
    history = [base.replace(number=n, recipe=recipe.replace(seed=n), accuracy=(n * 37 % 1000) / 1000) for n in range(1000)]
    history[3] = history[3].replace(state=TrialState.RUNNING, accuracy=None)
    values = accuracy_at_budgets(history, proposer.budgets.values())
    told = as_trials(history, values, replayer(proposer.space, proposer.methods, proposer.shape))
    assert len(told) == MAX_STUDY_TRIALS
    best = sorted((value[0] for value in values.values()), reverse=True)[: MAX_STUDY_TRIALS // 4]
    assert set(best) <= {trial.values[0] for trial in told if trial.values}
    assert sum(trial.state is optuna.trial.TrialState.RUNNING for trial in told) == 1
    assert told[-1].values == values[999]
