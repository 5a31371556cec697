"""Several dense models in a search: drawn, solved, learnt from, resumed, and left out of a budget with a reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from helpers.played_search import Finish, play

from autoslim.core.budget import Budget
from autoslim.core.recipe import TrainingSettings
from autoslim.core.result import EpochReport, Phase, Target, TrialResult
from autoslim.core.shape import ViTShape
from autoslim.errors import BudgetError, UnsupportedModelError
from autoslim.methods import METHODS
from autoslim.methods.base import Method
from autoslim.search import Proposer, Space, Start, load_space, parse_space
from autoslim.search.pruners.halving import HalvingPruner
from autoslim.search.samplers import SAMPLERS, SamplerContext, SamplingRequest
from autoslim.search.samplers.features import Encoder
from autoslim.search.samplers.mutation import Mutation, values_of
from autoslim.search.samplers.optuna_replay import flat_replay, replay
from autoslim.search.space.space import Uniform, moved_layer
from autoslim.search.start import resolve_budget

MakeTwo = Callable[..., Proposer]
each_sampler = pytest.mark.parametrize(
    "sampler", [pytest.param(name, marks=[pytest.mark.slow] if name == "gp" else []) for name in SAMPLERS]
)


@pytest.fixture(scope="module")
def shapes(shape: ViTShape) -> dict[str, ViTShape]:
    """The first model, and one with a block more."""
    return {"shallow": shape, "deep": dataclasses.replace(shape, depth=shape.depth + 1)}


@pytest.fixture(scope="module")
def make_two(methods: dict[str, Method], shapes: dict[str, ViTShape], whole: Space, dense: int) -> MakeTwo:
    def make(shares: tuple[float, ...] = (0.9, 0.8), *, sampler: str = "tpe", space: Space = whole, seed: int = 0) -> Proposer:
        starts = tuple(Start(label=label, shape=shape) for label, shape in shapes.items())
        budgets = {f"{share:.0%}": int(share * dense) for share in shares}
        return Proposer(
            space=space,
            shape=starts[0].shape,
            starts=starts,
            budgets=budgets,
            training=TrainingSettings(),
            seed=seed,
            sampler=sampler,
            methods=methods,
        )

    return make


@pytest.fixture(scope="module")
def history(make_two: MakeTwo, finished: Finish) -> list[TrialResult]:
    return [finished(proposal, 0.5 + proposal.number / 100) for proposal, _ in play(make_two(), finished, 24)]


# Proposals.


@pytest.mark.slow
@each_sampler
def test_recipes_of_all_starts_are_proposed_on_the_same_budgets(make_two: MakeTwo, finished: Finish, sampler: str) -> None:
    proposer = make_two(sampler=sampler)
    proposals = [proposal for proposal, _ in play(proposer, finished, 24)]
    assert all(proposal.infeasible is None for proposal in proposals)
    assert {proposal.recipe.model for proposal in proposals} == {"shallow", "deep"}
    for proposal in proposals:
        assert proposal.flops == proposer.flops_of(proposal.recipe)
        assert len(proposal.plan.blocks) == proposer.by_model[proposal.recipe.model].start.shape.depth
        if proposal.target != Target.FREE:
            assert proposal.flops <= proposer.budgets[proposal.target]


def test_the_opening_takes_the_starts_in_turn(make_two: MakeTwo, finished: Finish) -> None:
    proposer = make_two()
    opening = proposer._allocator._opening
    assert [assignment.models for assignment in opening] == [("shallow",), ("deep",)]
    assert [assignment.methods for assignment in opening] == [("tokens",), ("width",)]
    assert proposer._allocator.assign(len(opening)).models == ("shallow", "deep")


@pytest.mark.slow
@each_sampler
def test_a_proposal_is_a_function_of_the_history(make_two: MakeTwo, history: list[TrialResult], sampler: str) -> None:
    """A search that is resumed proposes the same recipes, whatever its process has proposed before."""
    used, fresh = make_two(sampler=sampler), make_two(sampler=sampler)
    for number in range(8, 24, 5):
        used.propose(number, history[:number])
    assert used.propose(24, history) == fresh.propose(24, list(reversed(history)))


def test_the_same_knobs_of_two_starts_are_two_recipes(make_two: MakeTwo, history: list[TrialResult]) -> None:
    recipe = history[0].recipe
    other = recipe.replace(model="deep" if recipe.model == "shallow" else "shallow")
    assert other.key != recipe.key


def test_one_start_is_searched_as_it_was_without_a_label(
    methods: dict[str, Method], shape: ViTShape, whole: Space, dense: int, finished: Finish
) -> None:
    """Its recipes name no model, so that their keys, their folders and their proposals are those of earlier versions."""
    proposer = Proposer(
        space=whole,
        shape=shape,
        budgets={"80%": int(0.8 * dense)},
        training=TrainingSettings(),
        seed=0,
        sampler="forest",
        methods=methods,
    )
    assert {proposal.recipe.model for proposal, _ in play(proposer, finished, 12)} == {""}
    assert list(proposer.by_model) == [""]
    assert proposer.unused_starts == []


# What a start reaches.


def test_a_start_within_a_budget_is_not_used_for_it_and_the_reason_is_said(
    make_two: MakeTwo, finished: Finish, dense: int
) -> None:
    # Between both: the shallow model has less than that before anything is removed.
    proposer = make_two((1.1, 0.8))
    ((budget, model, reason),) = proposer.unused_starts
    assert (budget, model) == ("110%", "shallow")
    assert reason.startswith("its dense model has ") and reason.endswith(" and is within 110% already")
    targets = [(proposal.target, proposal.recipe.model) for proposal, _ in play(proposer, finished, 24)]
    assert {model for target, model in targets if target == "110%"} == {"deep"}
    assert {model for target, model in targets if target == "80%"} == {"shallow", "deep"}


def test_a_budget_below_what_a_start_reaches_is_met_from_the_other(
    methods: dict[str, Method], shapes: dict[str, ViTShape], whole: Space, finished: Finish
) -> None:
    starts = tuple(Start(label=label, shape=shape) for label, shape in shapes.items())
    least = {
        start.label: Proposer(
            space=whole, shape=start.shape, budgets={}, training=TrainingSettings(), seed=0, methods=methods
        ).feasibility
        for start in starts
    }
    lowest = {label: min(one.cheapest.flops for one in found.values() if one.cheapest) for label, found in least.items()}
    assert lowest["shallow"] < lowest["deep"]
    budget = (lowest["shallow"] + lowest["deep"]) // 2
    proposer = Proposer(
        space=whole,
        shape=starts[0].shape,
        starts=starts,
        budgets={"low": budget},
        training=TrainingSettings(),
        seed=0,
        methods=methods,
    )
    ((label, model, reason),) = proposer.unused_starts
    assert (label, model) == ("low", "deep")
    assert reason.startswith("nothing in the space slims it to low")
    solved = [proposal for proposal, _ in play(proposer, finished, 9) if proposal.target == "low"]
    assert solved
    assert {proposal.recipe.model for proposal in solved} == {"shallow"}


def test_a_budget_that_no_start_reaches_is_refused_with_what_each_reaches(make_two: MakeTwo) -> None:
    with pytest.raises(
        BudgetError, match=r"it reaches tokens of shallow .*, width of shallow .*, tokens of deep .*, width of deep "
    ):
        make_two((0.01,))


def test_a_budget_that_all_models_are_within_is_refused(shapes: dict[str, ViTShape], dense: int) -> None:
    starts = [Start(label=label, shape=shape) for label, shape in shapes.items()]
    assert resolve_budget(Budget.parse("50%"), dense, starts) == dense // 2
    assert resolve_budget(Budget(label="b", flops=int(1.1 * dense)), dense, starts) == int(1.1 * dense)
    with pytest.raises(BudgetError, match=r"budget 9G: every dense model is within it already: shallow .*, deep "):
        resolve_budget(Budget.parse("9G"), dense, starts)


def test_a_start_that_no_method_can_slim_is_refused_by_its_name(shape: ViTShape) -> None:
    starts = (Start(label="plain", shape=shape), Start(label="pooled", shape=dataclasses.replace(shape, pool="avgmax")))
    with pytest.raises(UnsupportedModelError, match=r"^pooled: "):
        Proposer(
            space=load_space("merge"),
            shape=shape,
            starts=starts,
            budgets={},
            training=TrainingSettings(),
            seed=0,
            methods=METHODS,
        )


def test_a_method_is_proposed_only_for_the_starts_that_it_supports(shape: ViTShape, finished: Finish) -> None:
    """Merged tokens need pooling whose mean can be weighted: another start is left to the other method."""
    space = parse_space("methods: {width: , merge: }", source="s.yaml")
    starts = (Start(label="plain", shape=shape), Start(label="pooled", shape=dataclasses.replace(shape, pool="avgmax")))
    budgets = {"b": int(0.8 * starts[0].dense_flops)}
    proposer = Proposer(
        space=space, shape=shape, starts=starts, budgets=budgets, training=TrainingSettings(), seed=0, sampler="random"
    )
    assert list(proposer.by_model["pooled"].left_out) == ["merge"]
    proposals = [proposal for proposal, _ in play(proposer, finished, 24)]
    assert {(p.recipe.method, p.recipe.model) for p in proposals} == {("width", "plain"), ("merge", "plain"), ("width", "pooled")}
    assert all(proposal.infeasible is None for proposal in proposals)


# Learning.


def test_a_replayed_recipe_has_the_model_as_a_parameter_unless_it_is_the_only_one(
    make_two: MakeTwo, history: list[TrialResult], whole: Space, methods: dict[str, Method]
) -> None:
    builder = make_two().builder
    for result in history:
        own = builder.of(result.recipe.model)
        known: dict[str, Any] = {"models": ("shallow", "deep"), "asked_depth": own.asked_depth}
        for replayed in (
            replay(result.recipe, whole, methods, own.shape, **known),
            flat_replay(result.recipe, whole, methods, own.shape, constant=True, **known),
        ):
            assert replayed is not None
            assert replayed.params["model"] == result.recipe.model
            assert replayed.distributions["model"].choices == ("shallow", "deep")
        alone = replay(result.recipe, whole, methods, own.shape, models=(result.recipe.model,))
        assert alone is not None
        assert "model" not in alone.params
        assert replay(result.recipe, whole, methods, own.shape, models=("another",)) is None


def test_layers_of_all_starts_are_asked_for_in_one_range() -> None:
    layer = METHODS["life_regression"].ranges["drop_layer_1"]
    for own in range(1, 6):
        asked = moved_layer(layer, own, 6, 12)
        assert moved_layer(layer, asked, 12, 6) == own
    assert moved_layer(layer, 5, 6, 6) == 5


def test_layers_keep_their_ranges_in_every_start(shape: ViTShape) -> None:
    space = parse_space("methods: {life_regression: {drop_layer_1: {low: 0.2, high: 0.5}}}", source="s.yaml")
    shapes = {f"depth {depth}": dataclasses.replace(shape, depth=depth) for depth in (4, 6, 12)}
    starts = tuple(Start(label=label, shape=one) for label, one in shapes.items())
    proposer = Proposer(space=space, shape=starts[0].shape, starts=starts, budgets={}, training=TrainingSettings(), seed=0)
    for number in range(60):
        sample = proposer.builder.sample(Uniform(str(number)), ["life_regression"], tuple(shapes))
        assert space.contains(sample, shapes[sample.model])


def test_a_mutation_may_change_the_model_and_keeps_to_the_starts_of_the_budget(
    make_two: MakeTwo, history: list[TrialResult]
) -> None:
    builder = make_two().builder
    (recipe, *_) = [result.recipe for result in history if result.recipe.model == "shallow"]
    own = builder.of("shallow")
    values = values_of(recipe, own.space, depth=own.shape.depth, asked_depth=own.asked_depth)
    drawn = [builder.sample(Mutation(values, str(n)), [recipe.method], ("shallow", "deep")).model for n in range(60)]
    assert {"shallow", "deep"} == set(drawn)
    assert drawn.count("shallow") > drawn.count("deep")
    assert {builder.sample(Mutation(values, str(n)), [recipe.method], ("deep",)).model for n in range(9)} == {"deep"}


def test_vectors_have_one_length_a_flag_for_the_model_and_flops_in_one_unit(
    make_two: MakeTwo, history: list[TrialResult], dense: int
) -> None:
    builder = make_two().builder
    vectors = {}
    for result in history:
        vector = Encoder.of(builder, result.recipe.model).encode(result.recipe, builder.plan_of(result.recipe))
        vectors.setdefault(result.recipe.model, []).append(vector)
        assert vector[0] == pytest.approx(result.flops / dense)
    assert len({len(vector) for found in vectors.values() for vector in found}) == 1
    flags = [index for index in range(len(vectors["deep"][0])) if {v[index] for v in vectors["deep"]} == {1.0}]
    assert any({v[index] for v in vectors["shallow"]} == {0.0} for index in flags)


def test_only_trials_of_one_start_are_compared_straight_after_pruning(history: list[TrialResult]) -> None:
    pruner = HalvingPruner(epochs=9.0, chance=0.1)
    like = history[0].recipe
    accuracies = {"shallow": (0.9, 0.8, 0.7), "deep": (0.3, 0.25, 0.2)}
    number, ends = 0, {}
    for model, values in accuracies.items():
        for accuracy in values:
            result = history[-1].replace(number=number, recipe=like.replace(model=model))
            report = EpochReport(epoch=1.0, phase=Phase.PRUNE, metrics={"accuracy": accuracy})
            ends[model, accuracy] = pruner.should_prune(result, report)
            number += 1
    # The best of the worse start would be last among all six.
    assert ends["deep", 0.3] is None
    assert f"among {like.method} of deep recipes" in str(ends["deep", 0.2])


def test_a_sampler_of_the_search_knows_the_starts_of_each_target(make_two: MakeTwo) -> None:
    context: SamplerContext = make_two((1.1, 0.8))._context
    assert context.feasible_models == {"110%": ("deep",), "80%": ("shallow", "deep"), "free": ("shallow", "deep")}
    made = SAMPLERS["random"](context)
    assignment = make_two((1.1, 0.8))._allocator.assign(0)
    request = SamplingRequest(number=0, assignment=assignment, history=[], known=frozenset())
    assert next(made.candidates(request)).recipe.model in assignment.models
