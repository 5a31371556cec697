"""Chains of methods in a search: read from a space, drawn, solved, learnt from, and resumed."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from helpers.played_search import Finish, Make, play

from autoslim.core.constraints import CostLimits
from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe, Step, TrainingSettings
from autoslim.core.result import EpochReport, Origin, Phase, Target, TrialResult, TrialState
from autoslim.core.shape import ViTShape
from autoslim.cost import predict, predict_params
from autoslim.errors import SpaceError, UnsupportedModelError
from autoslim.methods import METHODS
from autoslim.methods.base import Method
from autoslim.methods.chain import chain_targets, evaluate_chain, split_of_recipe
from autoslim.search import Proposer, Space, feasibility, load_space, parse_space
from autoslim.search.budget_allocation import Assignment
from autoslim.search.pruners.halving import HalvingPruner
from autoslim.search.samplers import SAMPLERS, SamplerContext, SamplingRequest
from autoslim.search.samplers.features import Encoder
from autoslim.search.samplers.mutation import Mutation, values_of
from autoslim.search.samplers.optuna_replay import flat_replay, replay
from autoslim.search.space.space import SPLIT, SPLIT_TOLERANCE, Uniform

CHAIN = "width+tokens"
TEXT = """
methods: {tokens: , width: }
chains: [[width], [width, tokens], [tokens]]
split: {low: 0.3, high: 0.7}
training: {lr: {low: 1.0e-4, high: 1.0e-2}}
"""
each_sampler = pytest.mark.parametrize(
    "sampler", [pytest.param(name, marks=[pytest.mark.slow] if name == "gp" else []) for name in SAMPLERS]
)


@pytest.fixture(scope="module")
def chained(methods: dict[str, Method]) -> Space:
    return parse_space(TEXT, source="chained.yaml", methods=methods)


def chain_recipes(proposer: Proposer, finished: Finish, trials: int = 24) -> list[TrialResult]:
    return [finished(proposal) for proposal, _ in play(proposer, finished, trials) if proposal.recipe.method == CHAIN]


# The file.


def test_without_chains_every_method_is_alone(whole: Space, methods: dict[str, Method]) -> None:
    assert whole.chains == ()
    assert not whole.composes
    assert list(whole.units_of(methods)) == ["tokens", "width"]


def test_methods_alone_come_first_and_in_the_registrys_order(chained: Space, methods: dict[str, Method]) -> None:
    assert list(chained.units_of(methods)) == ["tokens", "width", CHAIN]
    assert list(chained.units_of({"width": methods["width"]})) == ["width"]
    assert chained.composes


def test_a_name_is_a_chain_of_one(methods: dict[str, Method]) -> None:
    space = parse_space("methods: {tokens: , width: }\nchains: [tokens, [width, tokens]]", source="s.yaml", methods=methods)
    assert space.chains == (("tokens",), ("width", "tokens"))
    assert space.split == SPLIT


def test_a_space_with_chains_survives_json_and_one_without_them_is_still_read(chained: Space, whole: Space) -> None:
    assert Space.from_json(chained.to_json()) == chained
    stored = whole.to_dict()
    del stored["chains"], stored["split"]
    assert Space.from_dict(stored) == whole


MISTAKES = {
    "no list": ("chains: width", "chains is 'width'; allowed: a list of chains"),
    "an empty list": ("chains: []", "allowed: a list of chains"),
    "an unknown method": ("chains: [[widht, tokens]]", "did you mean 'width'"),
    "a number": ("chains: [3, tokens, width]", "3 is no chain"),
    "three methods": ("chains: [[width, tokens, width]]", "allowed: a method, or a list of one or two"),
    "a method twice": ("chains: [[width, width], tokens]", "has a method twice"),
    "a chain twice": ("chains: [[width, tokens], [width, tokens]]", r"width\+tokens is listed twice"),
    "a method in no chain": ("chains: [[width]]", r"tokens is in no chain; add \[tokens\]"),
    "a split without a chain": ("split: 0.5", "split has no effect"),
    "a split beyond its range": ("chains: [[width, tokens]]\nsplit: {low: 0.0}", "split.low is 0.0; allowed: 0.05 to 0.95"),
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_wrong_chain_is_refused_with_what_is_allowed(methods: dict[str, Method], text: str) -> None:
    wrong, message = MISTAKES[text]
    with pytest.raises(SpaceError, match=message):
        parse_space(f"methods: {{tokens: , width: }}\n{wrong}", source="s.yaml", methods=methods)


def test_a_chain_needs_the_knobs_that_the_step_behind_needs() -> None:
    text = "methods: {vit_slim: {patches: down}, dps: }\nchains: [[vit_slim, dps]]"
    with pytest.raises(SpaceError, match=r"vit_slim\+dps needs vit_slim.patches 'stay'"):
        parse_space(text, source="s.yaml")


# Draws.


def test_a_draw_of_a_chain_has_both_methods_knobs_and_a_split(
    chained: Space, methods: dict[str, Method], shape: ViTShape
) -> None:
    draws = [chained.sample(Uniform(str(number)), methods, shape) for number in range(60)]
    assert {draw.method for draw in draws} == {"tokens", "width", CHAIN}
    for draw in draws:
        assert chained.contains(draw, shape)
        assert (draw.split is None) == (len(draw.steps) == 1)
        if draw.split is not None:
            assert [step.method for step in draw.steps] == ["width", "tokens"]
            assert 0.3 <= draw.split <= 0.7
            assert "keep" in draw.steps[0].knobs
            assert "cuts" in draw.steps[1].knobs


def test_a_first_step_leaves_the_patches_to_the_second(shape: ViTShape) -> None:
    text = "methods: {vit_slim: , patch_slimming: }\nchains: [vit_slim, [vit_slim, patch_slimming]]"
    space = parse_space(text, source="s.yaml")
    draws = [space.sample(Uniform(str(number)), METHODS, shape) for number in range(40)]
    alone = {draw.steps[0].knobs["patches"] for draw in draws if len(draw.steps) == 1}
    assert alone == {"stay", "down", "up"}
    assert {draw.steps[0].knobs["patches"] for draw in draws if len(draw.steps) == 2} == {"stay"}


# Solving.


def test_targets_share_the_logarithm_of_the_reduction() -> None:
    assert chain_targets(1000, 250, 0.5, 2) == [500, 250]
    assert chain_targets(1000, 250, 0.25, 2) == [round(1000 * 0.25**0.25), 250]
    assert chain_targets(1000, 250, 1.0, 1) == [250]
    assert chain_targets(1000, 2000, 0.5, 2) == [1000, 2000]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["forest", "tpe", "random"])
def test_proposals_are_on_their_budgets_with_the_split_that_was_drawn(
    make: Make, chained: Space, shape: ViTShape, methods: dict[str, Method], finished: Finish, sampler: str
) -> None:
    proposer = make(space=chained, sampler=sampler)
    found = []
    for proposal, _ in play(proposer, finished, 24):
        assert proposal.plan is not None
        assert proposal.flops == predict(shape, proposal.plan).total <= proposal.recipe.budget
        if proposal.target != Target.FREE:
            assert proposal.flops >= 0.97 * proposal.recipe.budget
        split = split_of_recipe(proposal.recipe, methods, shape)
        if split is not None:
            assert 0.3 - SPLIT_TOLERANCE <= split <= 0.7 + SPLIT_TOLERANCE
            found.append(proposal)
    assert len(found) >= 3


def test_both_steps_of_a_proposal_cut(make: Make, chained: Space, shape: ViTShape, methods: dict[str, Method], finished: Finish):
    proposer = make(space=chained, sampler="random")
    for result in chain_recipes(proposer, finished):
        first = evaluate_chain(methods, shape, proposer.builder.dense_plan, result.recipe.steps[:1])
        both = evaluate_chain(methods, shape, proposer.builder.dense_plan, result.recipe.steps)
        assert predict(shape, proposer.builder.dense_plan).total > first.flops > both.flops


def test_a_chain_reaches_lower_than_its_methods(chained: Space, shape: ViTShape, methods: dict[str, Method]) -> None:
    found = feasibility(chained, shape, Plan.dense(shape), methods)
    cheapest = {label: one.cheapest.flops for label, one in found.items() if one.cheapest is not None}
    assert cheapest[CHAIN] < min(cheapest["tokens"], cheapest["width"])
    assert found[CHAIN].cheapest is not None
    assert {"width.keep", "tokens.cuts"} <= found[CHAIN].cheapest.knobs.keys()


def test_the_parameters_are_the_first_steps_to_meet(
    chained: Space, shape: ViTShape, methods: dict[str, Method], dense: int
) -> None:
    counted = shape.replace(params=250_000)
    limit = 200_000
    proposer = Proposer(
        space=chained, shape=counted, budgets={"a": int(0.6 * dense)}, training=TrainingSettings(), seed=0, sampler="random",
        methods=methods, limits=CostLimits(params=limit),
    )  # fmt: skip
    proposals = [proposer.propose(number, []) for number in range(20)]
    chains = [p for p in proposals if p.recipe.method == CHAIN and p.target == "a" and p.plan is not None]
    assert chains
    assert all(predict_params(counted, p.plan) <= limit for p in chains if p.plan is not None)


def test_an_order_that_a_method_refuses_is_left_out_with_the_reason(dense: int, shape: ViTShape) -> None:
    text = "methods: {width: , patch_slimming: }\nchains: [width, [width, patch_slimming], [patch_slimming, width]]"
    proposer = Proposer(
        space=parse_space(text, source="s.yaml"), shape=shape, budgets={"a": dense // 2}, training=TrainingSettings(), seed=0
    )
    assert list(proposer.left_out) == ["patch_slimming+width"]
    assert "width must be a recipe's first step" in proposer.left_out["patch_slimming+width"]
    assert proposer.feasible_methods["a"] == ["width", "width+patch_slimming"]


def test_a_chain_with_a_method_that_cannot_slim_the_model_is_left_out(shape: ViTShape, dense: int) -> None:
    text = "methods: {width: , merge: }\nchains: [width, [width, merge]]"
    space, pooled = parse_space(text, source="s.yaml"), shape.replace(pool="avgmax")
    proposer = Proposer(space=space, shape=pooled, budgets={"a": int(0.7 * dense)}, training=TrainingSettings(), seed=0)
    assert list(proposer.left_out) == ["width+merge"]
    only = parse_space("methods: {width: , merge: }\nchains: [[width, merge]]", source="s.yaml")
    with pytest.raises(UnsupportedModelError, match="pooling 'token', 'avg' or 'max'"):
        Proposer(space=only, shape=pooled, budgets={"a": dense // 2}, training=TrainingSettings(), seed=0)


# The search.


def test_the_opening_tries_every_chain_once(make: Make, chained: Space, finished: Finish) -> None:
    opening = [proposal.recipe.method for proposal, _ in itertools.islice(play(make(space=chained), finished, 3), 3)]
    assert sorted(opening) == ["tokens", "width", CHAIN]


@pytest.mark.slow
@each_sampler
def test_a_resumed_search_proposes_the_same_chains(make: Make, chained: Space, finished: Finish, sampler: str) -> None:
    one = make(space=chained, sampler=sampler)
    played = list(play(one, finished, 14))
    for proposal, history in played[10:]:
        stored = [TrialResult.from_json(result.to_json()) for result in reversed(history)]
        assert make(space=chained, sampler=sampler).propose(proposal.number, stored) == proposal


@pytest.mark.slow
@each_sampler
def test_every_sampler_proposes_chains_where_it_is_asked_to(
    make: Make, chained: Space, shape: ViTShape, finished: Finish, sampler: str
) -> None:
    proposer = make(space=chained, sampler=sampler)
    history = [finished(make(space=chained, sampler="random").propose(number, [])) for number in range(13)]
    known = frozenset(result.recipe.key for result in history)
    made = SAMPLERS[sampler](SamplerContext(builder=proposer.builder, feasible_methods=proposer.feasible_methods))
    for target in ("80%", Target.FREE):
        assignment = Assignment(target=target, origin=Origin.SAMPLER, methods=(CHAIN,))
        request = SamplingRequest(number=13, assignment=assignment, history=history, known=known)
        for candidate in itertools.islice(made.candidates(request), 3):
            assert candidate.recipe.method == CHAIN
            assert candidate.infeasible is not None or (candidate.flops or 0) <= candidate.recipe.budget


def test_the_same_solved_chain_is_the_same_recipe(make: Make, chained: Space, finished: Finish) -> None:
    """The split is no part of a recipe: what was solved alike is trained once."""
    for result in chain_recipes(make(space=chained, sampler="random"), finished):
        assert Recipe.from_json(result.recipe.to_json()).key == result.recipe.key
        assert "split" not in result.recipe.to_dict()


def test_chains_are_replayed_with_their_split(
    make: Make, chained: Space, methods: dict[str, Method], shape: ViTShape, finished: Finish
) -> None:
    for result in chain_recipes(make(space=chained, sampler="random"), finished):
        replayed = replay(result.recipe, chained, methods, shape)
        assert replayed is not None
        split = split_of_recipe(result.recipe, methods, shape)
        assert split is not None
        assert replayed.params["split"] == pytest.approx(min(max(split, 0.3), 0.7))
        assert {"method", "width.keep", "tokens.cuts", "training.lr"} <= replayed.params.keys()
        assert replay(result.recipe, chained, methods, shape, units=["width"]) is None
        for constant in (True, False):
            flat = flat_replay(result.recipe, chained, methods, shape, constant=constant)
            assert flat is not None
            assert {"tokens.layer_2", "split"} <= flat.params.keys()


def test_a_method_alone_has_a_split_only_where_all_trials_need_the_same_parameters(
    chained: Space, methods: dict[str, Method], shape: ViTShape
) -> None:
    recipe = Recipe(
        steps=(Step(method="width", knobs=methods["width"].repair(shape, {})),), budget=1, training=TrainingSettings(), seed=0
    )
    alone, flat = replay(recipe, chained, methods, shape), flat_replay(recipe, chained, methods, shape, constant=True)
    assert alone is not None
    assert flat is not None
    assert "split" not in alone.params
    assert flat.params["split"] == chained.split.default


def test_a_chain_of_another_space_teaches_nothing(whole: Space, make: Make, chained: Space, finished: Finish) -> None:
    proposer = make(space=whole)
    for result in chain_recipes(make(space=chained, sampler="random"), finished):
        assert replay(result.recipe, whole, proposer.methods, proposer.shape) is None


def test_vectors_flag_both_methods_and_share_the_knobs_places(
    make: Make, chained: Space, whole: Space, methods: dict[str, Method], shape: ViTShape, finished: Finish
) -> None:
    encoder, plain = (Encoder(space, shape, methods, Plan.dense(shape)) for space in (chained, whole))
    proposer = make(space=chained, sampler="random")
    both = chain_recipes(proposer, finished)[0].recipe
    plan = proposer.builder.plan_of(both)
    vectors = {"both": encoder.encode(both, plan)}
    for step in both.steps:
        vectors[step.method] = encoder.encode(both.replace(steps=(step,)), plan)
    # Where a method alone differs from the chain, it lacks the other method, or the split is another.
    for alone, other in (("width", "tokens"), ("tokens", "width")):
        differs = vectors["both"] != vectors[alone]
        assert np.all((vectors[alone][differs] == -1) | (vectors[alone][differs] == 0) | (vectors[alone][differs] == 1))
        assert np.any(vectors[other][differs] == vectors["both"][differs])
    assert len(plain.encode(both.replace(steps=both.steps[:1]), plan)) == len(vectors["both"]) - 1


def test_mutations_keep_the_chain_and_move_its_split(
    make: Make, chained: Space, methods: dict[str, Method], shape: ViTShape, finished: Finish
) -> None:
    recipe = chain_recipes(make(space=chained, sampler="random"), finished)[0].recipe
    values = values_of(recipe, chained, split_of_recipe(recipe, methods, shape))
    draws = [chained.sample(Mutation(values, str(place)), methods, shape) for place in range(60)]
    assert {draw.method for draw in draws} == {CHAIN}
    kept = sum(math.isclose(draw.split or 0.0, min(max(values["split"], 0.3), 0.7)) for draw in draws)
    assert 60 > kept > 30


def test_trials_of_a_chain_are_compared_straight_after_pruning_with_each_other_only() -> None:
    """The best of one third of the chain's trials is below every trial of the method alone, and goes on."""
    pruner = HalvingPruner(epochs=9.0, chance=0.1)

    def prune(number: int, methods: tuple[str, ...], accuracy: float) -> str | None:
        steps = tuple(Step(method=method, knobs={}) for method in methods)
        recipe = Recipe(steps=steps, budget=100, training=TrainingSettings(), seed=number)
        trial = TrialResult(number=number, recipe=recipe, origin=Origin.SAMPLER, state=TrialState.RUNNING)
        return pruner.should_prune(trial, EpochReport(epoch=1.0, phase=Phase.PRUNE, metrics={"accuracy": accuracy}))

    assert [prune(number, ("width",), 0.9) for number in range(6)] == [None] * 6
    chain = ("width", "tokens")
    assert [prune(number, chain, accuracy) for number, accuracy in ((6, 0.5), (7, 0.6), (8, 0.55))] == [None] * 3
    reason = prune(9, chain, 0.3)
    assert reason is not None
    assert "among width+tokens recipes" in reason


def test_the_default_space_has_every_method_alone_and_width_before_tokens() -> None:
    space = load_space("default")
    assert [chain for chain in space.chains if len(chain) == 1] == [(name,) for name in METHODS]
    pairs = [chain for chain in space.chains if len(chain) > 1]
    assert 1 <= len(pairs) <= 2
    assert all(first == "width" for first, _ in pairs)
