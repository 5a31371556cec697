"""Every knob does something, and the solver puts any recipe onto its budget."""

from __future__ import annotations

import copy
import functools
import json
import math
import random
from typing import Any

import pytest
import torch
from helpers.examples import examples
from helpers.tiny import attach, attached, context_of, images, loss_of, make_dense, share_of_dense
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from autoslim.core.job import ModelSpec
from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs, Recipe, Step, TrainingSettings
from autoslim.core.shape import ViTShape
from autoslim.cost import predict
from autoslim.errors import InfeasibleError, SpaceError
from autoslim.methods import METHODS, Knob, evaluate, solve
from autoslim.models import create_dense, read_shape
from autoslim.search.space.space import TRAINING

KNOBS = [(name, knob) for name, method in METHODS.items() for knob, own in method.ranges.items() if len(own.choices or "01") > 1]
"""All but those that a method with an option of ours has fixed."""


@functools.cache
def fingerprint(method_name: str, encoded: str) -> dict[str, Any]:
    """Everything that a knob may change, on a model of six blocks."""
    knobs = json.loads(encoded)
    method, dense = METHODS[method_name], make_dense("deit", depth=6)
    expected = evaluate(method, dense.shape, Plan.dense(dense.shape), knobs)
    student = attached(method_name, dense, expected.knobs)
    torch.manual_seed(0)
    loss = float(loss_of(method_name, dense, student, expected.knobs, distillation=0.5).detach())
    finished = method.prune(copy.deepcopy(student), context_of(dense.shape, expected.knobs))
    shared = method.shared_settings(dense.shape, expected.knobs)
    return {
        "plan": expected.plan,
        "train share": method.train_share(expected.knobs),
        "shared share": None if shared is None else method.shared_share(shared),
        "learning rates": method.learning_rates(student, expected.knobs),
        "finetune rate": method.finetune_rate(expected.knobs),
        "lr decay": method.lr_decay(expected.knobs),
        "replaced settings": method.replaced_settings(expected.knobs),
        "trained": [name for name, p in student.named_parameters() if p.requires_grad],
        "loss": loss,
        "finished plan": finished.plan,
        "finished weights": sum(float(p.detach().double().square().sum()) for p in finished.model.parameters()),
        "tuned": [name for name, p in finished.model.named_parameters() if p.requires_grad],
        "trunk": type(finished.model.blocks).__name__,
    }


def bases(method: str, knob: str) -> list[Knobs]:
    """Complete knobs under which `knob` is active: the defaults, or with one choice made otherwise."""
    shape, ranges = six_blocks(), METHODS[method].ranges
    candidates: list[Knobs] = [{}]
    for name, other in ranges.items():
        candidates += [{name: value} for value in other.choices or ()]
    spread = {f"drop_layer_{k}": k for k in range(1, 5) if f"drop_layer_{k}" in ranges}
    repaired = [METHODS[method].repair(shape, {**spread, **candidate}) for candidate in candidates]
    return [knobs for knobs in repaired if knob in knobs]


def alternatives(knob: Knob, value: Any, depth: int) -> list[Any]:
    if knob.choices is not None:
        return [choice for choice in knob.choices if choice != value]
    assert knob.low is not None
    assert knob.high is not None
    if knob.kind == "float":
        return [knob.low, (knob.low + knob.high) / 2, knob.high]
    return [block for block in range(1, depth) if block != value]


@functools.cache
def six_blocks() -> ViTShape:
    return make_dense("deit", depth=6).shape


@pytest.mark.slow
@pytest.mark.parametrize(("method", "knob"), KNOBS)
def test_every_knob_changes_the_plan_or_the_training(method: str, knob: str):
    tried = 0
    for base in bases(method, knob):
        for value in alternatives(METHODS[method].ranges[knob], base[knob], 6):
            tried += 1
            if fingerprint(method, json.dumps(base)) != fingerprint(method, json.dumps({**base, knob: value})):
                return
    pytest.fail(f"{method}.{knob} is dead: {tried} changes of it changed nothing")


@pytest.mark.parametrize(("method", "knob"), KNOBS)
def test_defaults_and_ends_are_allowed_and_what_lies_beyond_is_not(method: str, knob: str):
    shape, own = six_blocks(), METHODS[method].ranges[knob]
    knobs = bases(method, knob)[0]
    if own.kind == "choice":
        with pytest.raises(SpaceError, match=knob):
            METHODS[method].repair(shape, {**knobs, knob: "no such choice"})
        return
    for value in (own.low, own.high) if own.kind == "float" else (1, 5):
        METHODS[method].repair(shape, {**knobs, knob: value})
    for value in (-1.0, 1e9, "much", None, True):
        with pytest.raises(SpaceError, match=knob):
            METHODS[method].repair(shape, {**knobs, knob: value})


DRAWN = {
    **{f"training.{name}": knob for name, knob in TRAINING.items()},
    **{f"{method}.{name}": knob for method in METHODS for name, knob in METHODS[method].ranges.items()},
}


@pytest.mark.parametrize("name", [name for name, knob in DRAWN.items() if knob.kind == "float" and not knob.cost_sign])
def test_a_default_is_not_lost_at_one_end_of_what_is_drawn(name: str):
    """A tenth of the draws lies on each side of it, unless it is the end itself, where an option is off."""
    knob = DRAWN[name]
    assert knob.low is not None
    assert knob.high is not None
    low, high, default = (math.log(value) if knob.log else value for value in (knob.low, knob.high, knob.default))
    place = (default - low) / (high - low)
    assert 0.1 <= place <= 0.901 or place in (0, 1)


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_knob_is_refused_with_those_that_there_are(method: str):
    with pytest.raises(SpaceError, match="no knob 'flavour'; allowed: "):
        METHODS[method].repair(six_blocks(), {"flavour": 1})


# The solver, on the shapes that it makes promises for.


@functools.cache
def deit_small() -> ViTShape:
    import timm

    with torch.device("meta"):
        return read_shape(timm.create_model("deit_small_patch16_224"))


@functools.cache
def vit_cifar10() -> ViTShape:
    sizes = {"img_size": 32, "patch_size": 4, "embed_dim": 192, "depth": 6, "num_heads": 3}
    return create_dense(ModelSpec(name="vit_tiny_patch16_224", weights="scratch", args=sizes), classes=10).shape


PROMISED = {"deit_small": (deit_small, 0.995), "vit_cifar10": (vit_cifar10, 0.98)}
each_promise = pytest.mark.parametrize("model", ["vit_cifar10", pytest.param("deit_small", marks=pytest.mark.slow)])
examples = settings(
    max_examples=examples(60),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)


def draw_knobs(method: str, shape: ViTShape, seed: int) -> Knobs:
    """A recipe as a search would draw it."""
    draw, chosen = random.Random(seed), {}
    for name, knob in METHODS[method].ranges.items():
        if not knob.searched or not METHODS[method].is_active(name, chosen):
            continue
        if knob.choices is not None:
            chosen[name] = draw.choice(knob.choices)
        elif knob.kind == "layer":
            chosen[name] = draw.randint(1, shape.depth - 1)
        else:
            chosen[name] = (
                draw.uniform(knob.low, knob.high) if knob.kind == "float" else draw.randint(int(knob.low), int(knob.high))
            )
    return chosen


@each_promise
@pytest.mark.parametrize("method", METHODS)
@examples
@given(seed=st.integers(0, 10**6), share=st.floats(0.1, 1.0))
def test_solved_recipes_meet_their_budgets(model: str, method: str, seed: int, share: float):
    shape, least = PROMISED[model][0](), PROMISED[model][1]
    plan, budget = Plan.dense(shape), share_of_dense(shape, share)
    drawn = draw_knobs(method, shape, seed)
    try:
        solved = solve(METHODS[method], shape, plan, drawn, budget)
    except InfeasibleError:
        assume(False)
    assert solved.flops == predict(shape, solved.plan).total <= budget
    solved.plan.check(shape)
    for name, value in solved.knobs.items():
        METHODS[method].ranges[name].check(value, name, depth=shape.depth)
    again = solve(METHODS[method], shape, plan, solved.knobs, budget)
    assert key(method, again.knobs, budget) == key(method, solved.knobs, budget)
    assert again == solved
    if method == "life_regression":
        dearest = solve(METHODS[method], shape, plan, drawn, 10**15)
        assert solved.flops >= least * budget or solved == dearest


def key(method: str, knobs: Knobs, budget: int) -> str:
    return Recipe(steps=(Step(method=method, knobs=knobs),), budget=budget, training=TrainingSettings(), seed=0).key


@each_promise
@pytest.mark.parametrize("method", METHODS)
@examples
@given(seed=st.integers(0, 10**6))
def test_repairing_twice_is_repairing_once_and_keeps_the_plan(model: str, method: str, seed: int):
    shape = PROMISED[model][0]()
    drawn = draw_knobs(method, shape, seed)
    once = evaluate(METHODS[method], shape, Plan.dense(shape), drawn)
    assert evaluate(METHODS[method], shape, Plan.dense(shape), once.knobs) == once


@examples
@given(one=st.floats(0.02, 1.0), step=st.floats(-0.003, 0.003))
def test_equal_widths_are_equal_recipes(one: float, step: float):
    shape, method = vit_cifar10(), METHODS["vit_slim"]
    other = min(max(one + step, 0.02), 1.0)
    left, right = (evaluate(method, shape, Plan.dense(shape), {"keep": keep}) for keep in (one, other))
    assert (left.plan == right.plan) == (left.knobs == right.knobs)
    widths = [max(1, int(width * one)) for width in (shape.head_width, shape.hidden)]
    assert [left.plan.blocks[0].head_width, left.plan.blocks[0].hidden] == widths


@each_promise
@pytest.mark.parametrize("method", METHODS)
def test_a_budget_below_the_cheapest_form_is_infeasible(model: str, method: str):
    shape = PROMISED[model][0]()
    with pytest.raises(InfeasibleError, match=r"cheapest form has .* above the budget"):
        solve(METHODS[method], shape, Plan.dense(shape), {}, share_of_dense(shape, 0.001))


def test_narrowed_ranges_are_kept_to_within_half_a_count():
    shape, method = deit_small(), METHODS["life_regression"]
    ranges = {
        name: knob.__class__(**{**vars(knob), "low": 0.2, "high": 0.7}) if name.startswith("life_threshold") else knob
        for name, knob in method.ranges.items()
    }
    for seed in range(20):
        drawn = draw_knobs("life_regression", shape, seed)
        try:
            solved = solve(method, shape, Plan.dense(shape), drawn, share_of_dense(shape, 0.6), ranges=ranges)
        except InfeasibleError:
            continue
        for name, value in solved.knobs.items():
            if name.startswith("life_threshold"):
                assert 0.2 - 0.51 / shape.patches <= value <= 0.7 + 0.51 / shape.patches


def test_a_composed_recipe_is_solved_by_its_last_step():
    shape = deit_small()
    narrow = evaluate(METHODS["vit_slim"], shape, Plan.dense(shape), {"keep": 0.8})
    budget = share_of_dense(shape, 0.5)
    both = solve(METHODS["life_regression"], shape, narrow.plan, {}, budget)
    assert 0.995 * budget <= both.flops <= budget
    assert [block.hidden for block in both.plan.blocks] == [block.hidden for block in narrow.plan.blocks]


MEASURED = dict.fromkeys(("sit", "sit_seeded"), (".pre_block.", ".reverse."))
"""Parts that start from what the calibration images show, or at random."""


def test_images_are_only_measured_on_by_attach():
    """Nothing else in the training form depends on the calibration images."""
    for method in METHODS:
        dense = make_dense()
        knobs = METHODS[method].repair(dense.shape, {})
        students = [attach(method, dense, knobs, images(seed=seed)).state_dict() for seed in (1, 2)]
        same = [name for name in students[0] if not any(part in name for part in MEASURED.get(method, ()))]
        assert all(torch.equal(students[0][name], students[1][name]) for name in same)
