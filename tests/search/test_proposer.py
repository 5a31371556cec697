from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import optuna
import pytest
from helpers.played_search import Finish, Make, play, replayer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoslim.core.recipe import TrainingSettings
from autoslim.core.result import Origin, Target, TrialResult, TrialState
from autoslim.core.shape import ViTShape
from autoslim.cost.flops import predict
from autoslim.errors import BudgetError, RequestError, SpaceError, UnsupportedModelError
from autoslim.methods import METHODS
from autoslim.methods.base import Method
from autoslim.search import Proposal, Proposer, Space, load_space, parse_space
from autoslim.search.samplers.optuna_study import (
    accuracy_and_flops,
    as_trials,
    build_study,
)
from autoslim.search.space.space import Sample

NARROW = """
methods:
  tokens: {cuts: [1, 2], layer_1: {low: 0.1, high: 0.5}, layer_2: {low: 0.4, high: 0.8}, gone_1: {low: 0.1, high: 0.7}}
  width: {keep: {low: 0.35, high: 0.95}}
"""


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    for proposal, _ in play(proposer, finished, 14):
        assert proposal.infeasible is None
        assert proposal.plan is not None
        assert proposal.flops == predict(shape, proposal.plan).total
        assert proposal.flops <= proposal.recipe.budget
        assert proposal.recipe.budget == proposer.budgets.get(proposal.target, proposal.flops)
        (step,) = proposal.recipe.steps
        assert space.contains(Sample(steps=(step,), training={}), shape)
        history.append(finished(proposal))
    trials = as_trials(history, accuracy_and_flops(history), replayer(space, methods, shape), single_objective=False)
    assert len(trials) == len(history)
    # Optuna checks each against its distribution.
    build_study(trials, ["maximize", "minimize"], optuna.samplers.RandomSampler(seed=0))


@pytest.mark.slow
@pytest.mark.short
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**40), name=st.sampled_from(["default", "smoke"]))
def test_real_methods_are_solved_onto_their_budgets(shape: ViTShape, dense: int, finished: Finish, seed: int, name: str) -> None:
    check_real_methods(shape, dense, finished, name, seed=seed, sampler="random")


@pytest.mark.slow
def test_the_forest_proposes_real_methods_onto_their_budgets(shape: ViTShape, dense: int, finished: Finish) -> None:
    check_real_methods(shape, dense, finished, "smoke", seed=0, sampler="forest")


def check_real_methods(shape: ViTShape, dense: int, finished: Finish, name: str, **settings: Any) -> None:
    budgets = {"75%": int(0.75 * dense), "55%": int(0.55 * dense)}
    proposer = Proposer(space=load_space(name), shape=shape, budgets=budgets, training=TrainingSettings(), **settings)
    history = []
    for proposal, _ in play(proposer, finished, 16):
        assert proposal.flops is not None
        assert proposal.target == Target.FREE or 0.95 * budgets[proposal.target] < proposal.flops <= budgets[proposal.target]
        assert proposal.recipe.seed == settings["seed"]
        history.append(finished(proposal))
    assert {result.recipe.method for result in history} == set(proposer.space.units)
    trials = as_trials(history, accuracy_and_flops(history), replayer(proposer.space, METHODS, shape))
    assert len(trials) == len(history)


def test_own_entry_in_the_history_changes_nothing(make: Make, finished: Finish) -> None:
    proposer = make()
    for proposal, history in play(proposer, finished, 12):
        assert proposer.propose(proposal.number, [*history, finished(proposal)]) == proposal


@pytest.mark.slow
def test_proposal_does_not_depend_on_the_order_of_hashes() -> None:
    script = """
import sys
from autoslim.search import *
from autoslim.core.recipe import TrainingSettings
from autoslim.core.result import ErrorClass, Origin, Target, TrialResult, TrialState
from autoslim.core.shape import ViTShape
shape = ViTShape.from_json(sys.stdin.read())
proposer = Proposer(space=load_space("default"), shape=shape, budgets={"a": 10**7}, training=TrainingSettings(), seed=3)
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
    pooled = shape.replace(pool="avgmax")
    proposer = Proposer(
        space=load_space("default"), shape=pooled, budgets={"a": int(0.7 * dense)}, training=TrainingSettings(), seed=0
    )
    merging = {"merge", "patch_slimming_merging", "life_regression_merging"}
    assert list(proposer.left_out) == [label for label, chain in proposer.space.units_of(METHODS).items() if merging & {*chain}]
    others = [label for label in proposer.space.units_of(METHODS) if label not in proposer.left_out]
    assert {"vit_slim", "patch_slimming"} <= set(others)
    assert proposer.feasible_methods == {"a": others, Target.FREE: others}
    with pytest.raises(UnsupportedModelError, match="pooling 'token', 'avg' or 'max'"):
        Proposer(space=load_space("merge"), shape=pooled, budgets={"a": dense}, training=TrainingSettings(), seed=0)


def test_training_settings_of_the_space_replace_the_jobs(make: Make) -> None:
    recipes = [make().propose(number, []).recipe for number in range(8)]
    assert len({recipe.training.lr for recipe in recipes}) == 8
    assert all(1e-4 <= recipe.training.lr <= 1e-2 and recipe.training.epochs == 3.0 for recipe in recipes)
