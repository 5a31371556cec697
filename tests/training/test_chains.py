"""Chains in a trial: what is measured is what was predicted, the second step decides on a sound model, and a trial resumes."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.marks import DISTINCT
from helpers.tiny import context_of, images, make_dense, recipe_of, share_of_dense, shared_of, slim, solved_knobs

from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe, Step
from autoslim.core.result import Phase
from autoslim.cost import count_flops, predict, predict_params
from autoslim.errors import InfeasibleError, UnsupportedModelError
from autoslim.methods import METHODS, StepContext, solve
from autoslim.methods.chain import REST_SHARE, SolvedChain, chain_targets, solve_chain
from autoslim.methods.layers.rectangular_block import RectangularBlock, class_query_last
from autoslim.methods.layers.token_selector import FixedTokens
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.models import DenseModel
from autoslim.search import parse_space
from autoslim.search.space.space import Space, Uniform
from autoslim.training import TrialContext, phase, run_trial
from autoslim.training.loop import Trainer
from autoslim.training.phase_steps import phase_shares, split_steps

WIDTHS = ("width", "vit_slim")
TOKENS = tuple(name for name in DISTINCT if name not in WIDTHS)
CHAINS = tuple((first, second) for first in WIDTHS for second in TOKENS)


@functools.cache
def space() -> Space:
    methods = {name: None for name in DISTINCT}
    text = json.dumps({"methods": methods, "chains": [list(chain) for chain in CHAINS]})
    return parse_space(text, source="chains.yaml")


# FLOPs.


def test_random_chains_cost_what_is_predicted():
    assert check_random_chains(5) == 0


@pytest.mark.slow
def test_a_hundred_random_chains_cost_what_is_predicted():
    """Few are infeasible once the first step has cut, which may leave other widths than were solved for, near the second one's floor."""
    assert check_random_chains(100) <= 3


def check_random_chains(count: int) -> int:
    """Draws chains until `count` are cut, whose FLOPs are those predicted; returns how many were infeasible on the way.

    Models and methods come in turn, all else is drawn.
    """
    finished = infeasible = 0
    while finished < count:
        seed = finished + infeasible
        try:
            check_random_chain(("vit", "deit")[seed % 2], CHAINS[seed % len(CHAINS)], random.Random(seed))
            finished += 1
        except InfeasibleError:
            infeasible += 1
    return infeasible


def solved_chain(dense: DenseModel, chain: tuple[str, str], draw: random.Random, query: bool) -> tuple[SolvedChain, int]:
    """A chain with every knob, its split and its budget drawn, again where that cannot be solved; and the budget."""
    start = Plan.dense(dense.shape, class_query=query)
    while True:
        budget = share_of_dense(dense.shape, draw.uniform(0.3, 0.85))
        sample = space().sample(Uniform(str(draw.random())), METHODS, dense.shape, units=["+".join(chain)])
        assert sample.split is not None
        targets = chain_targets(predict(dense.shape, start).total, budget, sample.split, 2)
        with contextlib.suppress(InfeasibleError, UnsupportedModelError):
            return solve_chain(METHODS, dense.shape, start, sample.steps, targets), budget


def check_random_chain(model: str, chain: tuple[str, str], draw: random.Random) -> None:
    """Both steps cut as a trial does it, counted, and built again."""
    dense, query = dense_model(model), draw.random() < 0.3
    shape = dense.shape
    solved, budget = solved_chain(dense, chain, draw, query)
    assert solved.flops == predict(shape, solved.plan).total <= budget
    finished, steps, plan = cut(dense, solved.steps, budget, query=query)
    if query:
        finished = class_query_last(finished, shape.prefix_tokens)
    assert count_flops(finished.eval(), 32) == predict(shape, plan).total <= budget
    assert sum(p.numel() for p in finished.parameters()) == predict_params(shape, plan)
    plan.check(shape)
    fresh = copy.deepcopy(dense.module)
    for step in steps:
        fresh = METHODS[step.method].build(fresh, shape, plan, step.knobs)
    fresh = class_query_last(fresh, shape.prefix_tokens) if query else fresh
    fresh.load_state_dict(finished.state_dict(), strict=True)


def cut(dense: DenseModel, steps: tuple[Step, ...], budget: int, *, query: bool) -> tuple[Any, list[Step], Plan]:
    """The second step is solved again on the widths that the first one has left."""
    shape, plan, model = dense.shape, Plan.dense(dense.shape, class_query=query), copy.deepcopy(dense.module)
    done = []
    for position, step in enumerate(steps):
        method, knobs, target = METHODS[step.method], step.knobs, budget
        if position:
            knobs = solve(method, shape, plan, knobs, budget).knobs
        else:
            target = predict(shape, method.expect(shape, plan, knobs)).total
        context = StepContext(
            shape=shape, plan=plan, knobs=knobs, budget=target, shared=shared(dense, method.name, json.dumps(knobs))
        )
        with torch.no_grad():
            finished = method.prune(method.attach(model, context, images()), context)
        model, plan = finished.model, finished.plan
        done.append(Step(method=method.name, knobs=finished.knobs))
    return model, done, plan


def shared(dense: DenseModel, method: str, knobs: str) -> Any:
    settings = METHODS[method].shared_settings(dense.shape, json.loads(knobs))
    return None if settings is None else cached(dense.architecture.name, method, json.dumps(settings), knobs)


@functools.cache
def cached(model: str, method: str, settings: str, knobs: str) -> Any:
    name = next(name for name in ("vit", "deit") if dense_model(name).architecture.name == model)
    return shared_of(method, dense_model(name), json.loads(knobs))


@functools.cache
def dense_model(name: str) -> DenseModel:
    return make_dense(name)


# The second step's model.


def test_patches_are_chosen_on_the_dense_model_where_nothing_was_trained_since():
    """The same places as without the cut of widths before them."""
    dense = make_dense()
    first = slim("width", dense, share=0.5)
    # Counts that no measurement changes, so that all three differ in their places alone.
    knobs = solved_knobs("patch_slimming", dense.shape, 0.7, {"counts": "pyramid"})
    method, found = METHODS["patch_slimming"], {}
    for name, model, own in (("alone", dense.module, None), ("blind", first.model, None), ("chain", first.model, dense.module)):
        context = context_of(dense.shape, knobs, 0.7, shared=shared_of("patch_slimming", dense, knobs))
        context = StepContext(**{**vars(context), "dense": own})
        student = method.attach(copy.deepcopy(model), context, images())
        # The last block's class query is no place among the patches.
        selectors = [block.selector for block in blocks_of(student) if isinstance(block, RectangularBlock)]
        found[name] = [selector.index.tolist() for selector in selectors if isinstance(selector, FixedTokens)]
    assert found["alone"]
    assert found["chain"] == found["alone"] != found["blind"]


@pytest.mark.slow
@pytest.mark.short
def test_a_step_that_trains_finds_a_model_that_was_tuned_since_the_cut(
    context: TrialContext, make_recipe: Callable[..., Recipe], drain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    began: list[tuple[str, int]] = []
    measured: dict[str, Any] = {}

    class Noted(Trainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            began.append((self.schedule.seed_name, self.schedule.steps))

    def attach(method: Any, model: Any, step_context: StepContext, images_B3HW: Any) -> Any:
        measured[method.name] = step_context.dense
        return attached[method.name](model, step_context, images_B3HW)

    monkeypatch.setattr(phase, "Trainer", Noted)
    attached = {name: METHODS[name].attach for name in ("width", "life_regression", "patch_slimming")}
    for name in attached:
        monkeypatch.setattr(METHODS[name], "attach", functools.partial(attach, METHODS[name]))
    reports, _ = drain(run_trial(make_recipe("width", "life_regression", epochs=4.0), context, tmp_path / "one"))
    assert [name for name, _ in began] == ["rest 1", "train 1", "tune"]
    total = sum(steps for _, steps in began)
    assert began[0][1] == pytest.approx(REST_SHARE * total, abs=1)
    assert [report.phase for report in reports].count(Phase.PRUNE) == 1
    assert measured == {"width": None, "life_regression": None}
    began.clear()
    drain(run_trial(make_recipe("width", "patch_slimming", epochs=1.0), context, tmp_path / "two"))
    assert [name for name, _ in began] == ["tune"]
    assert measured["patch_slimming"] is context.teacher


@pytest.mark.parametrize(
    ("second", "rest_share", "rest"),
    [("merge", 0.0, []), ("merge", 0.2, [0.2]), ("life_regression", 0.0, [REST_SHARE]), ("life_regression", 0.2, [0.2])],
)
def test_a_rest_has_its_share_of_the_steps_in_front_of_the_second_step(second: str, rest_share: float, rest: list[float]):
    recipe = recipe_with(("width", second), rest_share)
    shares = phase_shares(recipe)
    assert shares == [0.0, *rest, METHODS[second].train_share(recipe.steps[1].knobs)]
    # No phase before it has steps: its share is of all of them.
    assert split_steps(100, shares)[1:-1] == [round(100 * share) for share in rest]


def test_a_method_alone_has_no_rest():
    assert phase_shares(recipe_with(("merge",), 0.2)) == [0.0]


def recipe_with(methods: tuple[str, ...], rest_share: float) -> Recipe:
    steps = [Step(method=name, knobs=METHODS[name].repair(dense_model("vit").shape, {})) for name in methods]
    return recipe_of(steps, budget=1, rest_share=rest_share)


def test_a_rest_takes_its_share_of_the_same_epochs_on_the_same_budget_and_the_second_step_decides_behind_it(
    context: TrialContext, make_recipe: Callable[..., Recipe], drain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    decides_on_its_own: list[bool] = []
    method = METHODS["merge"]
    attach = method.attach

    def noted(model: Any, step_context: StepContext, images_B3HW: Any) -> Any:
        decides_on_its_own.append(step_context.to_measure(model) is model)
        return attach(model, step_context, images_B3HW)

    monkeypatch.setattr(method, "attach", noted)
    recipe = make_recipe("width", "merge", epochs=1.0, rest_share=0.34)
    reports, outcome = drain(run_trial(recipe, context, tmp_path))
    assert decides_on_its_own == [True]
    assert outcome.flops == outcome.flops_predicted <= recipe.budget
    (rested,) = [report.epoch for report in reports if report.phase is Phase.TRAIN]
    # Two steps of six.
    assert rested == pytest.approx(1 / 3, abs=1e-5)
    assert outcome.epochs == pytest.approx(1.0)
    assert outcome.recipe.training == recipe.training


@pytest.mark.slow
@pytest.mark.parametrize(
    ("second", "rest_share", "stop_after"),
    [
        *(("life_regression", 0.0, stop_after) for stop_after in range(1, 6)),
        *(("merge", 0.4, stop_after) for stop_after in (1, 2, 3)),
    ],
)
def test_a_chain_resumes_from_every_phase(
    open_context: Callable[[], TrialContext],
    make_recipe: Callable[..., Recipe],
    drain,
    tmp_path: Path,
    second: str,
    rest_share: float,
    stop_after: int,
):
    """Killed behind any report, also in the rest between the steps, it ends as if nothing had been."""
    recipe = make_recipe("width", second, epochs=3.0, rest_share=rest_share)
    whole, outcome = drain(run_trial(recipe, open_context(), tmp_path / "whole"))
    killed = run_trial(recipe, open_context(), tmp_path / "killed")
    for _ in range(min(stop_after, len(whole) - 1)):
        next(killed)
    killed.close()
    _, resumed = drain(run_trial(recipe, open_context(), tmp_path / "killed"))
    assert resumed.replace(seconds=0.0) == outcome.replace(seconds=0.0)


def test_a_trial_of_a_chain_keeps_its_budget_and_its_steps(
    context: TrialContext, make_recipe: Callable[..., Recipe], drain, tmp_path: Path
):
    recipe = make_recipe("width", "patch_slimming", share=0.45, first=0.7, epochs=0.5)
    reports, outcome = drain(run_trial(recipe, context, tmp_path))
    assert outcome.flops == outcome.flops_predicted <= recipe.budget
    assert outcome.flops >= 0.95 * recipe.budget
    assert outcome.recipe.method == "width+patch_slimming"
    assert reports[0].phase == Phase.SHARED
