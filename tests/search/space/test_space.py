from __future__ import annotations

import optuna
import pytest
from helpers.tiny import make_dense
from hypothesis import given
from hypothesis import strategies as st

from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe, Step, TrainingSettings
from autoslim.core.shape import ViTShape
from autoslim.cost import predict
from autoslim.errors import SpaceError
from autoslim.methods import METHODS, solve
from autoslim.methods.base import Method
from autoslim.search import Space, load_space, parse_space, space_names
from autoslim.search.samplers.features import Encoder
from autoslim.search.samplers.optuna_replay import flat_replay, replay
from autoslim.search.space.space import TRAINING, Uniform, is_inside


@pytest.mark.parametrize("name", space_names())
def test_every_space_that_comes_along_loads_and_survives_json(name: str) -> None:
    space = load_space(name)
    assert space.name == name
    assert space.description
    assert Space.from_json(space.to_json()) == space


PAPERS = ("patch_slimming", "dps", "life_regression", "sit", "vit_slim")
OPEN = {"dps": {"selector", "train_share", "selector_lr"}}
"""Knobs that the paper says nothing of, in what could be read."""


@pytest.mark.parametrize("name", [name for name in space_names() if name != "smoke"])
def test_a_search_under_a_papers_name_has_the_papers_options(name: str) -> None:
    """A choice that is not the default is ours: a front that says `sit` would otherwise mean something else."""
    space = load_space(name)
    # What a paper varies itself: how often tokens go, and ViT-Slim whether patches go.
    own = {"stages", "search_share", "patches", "spare_until"}
    for method in set(PAPERS) & set(space.methods):
        for knob, narrowed in space.methods[method].items():
            if knob == "drops":
                # The code's three or fewer; four, and in front of every block, are ours.
                assert set(narrowed.choices) <= {1, 2, 3}
            elif narrowed.searched and narrowed.choices is not None and knob not in own | OPEN.get(method, set()):
                assert narrowed.choices == (METHODS[method].ranges[knob].default,), (method, knob)


def test_default_and_smoke_hold_every_method() -> None:
    assert list(load_space("default").methods) == list(load_space("smoke").methods) == list(METHODS)


def test_knob_not_named_keeps_its_whole_range(methods: dict[str, Method]) -> None:
    space = parse_space("methods: {width: {keep: {low: 0.5}}}", source="s.yaml", methods=methods)
    keep = space.methods["width"]["keep"]
    assert (keep.low, keep.high) == (0.5, 1.0)
    assert space.methods["width"]["flavour"] == methods["width"].ranges["flavour"]
    assert space.training == {}
    assert "tokens" not in space.methods


def test_single_value_fixes_a_knob_and_a_list_chooses(methods: dict[str, Method], shape: ViTShape) -> None:
    text = "methods: {tokens: {cuts: 1, layer_1: 0.5, rate: [1, 2.5], calls: [2]}}\ntraining: {flip: false, lr: 1e-4}"
    space = parse_space(text, source="s.yaml", methods=methods)
    draws = [space.sample(Uniform(str(n)), {"tokens": methods["tokens"]}, shape) for n in range(20)]
    assert {(draw.steps[0].knobs["cuts"], draw.steps[0].knobs["layer_1"], draw.steps[0].knobs["calls"]) for draw in draws} == {
        (1, 4, 2)
    }
    assert {draw.steps[0].knobs["rate"] for draw in draws} == {1.0, 2.5}
    assert all(draw.training == {"flip": False, "lr": 1e-4} for draw in draws)


def test_digest_does_not_depend_on_the_order_in_the_file(methods: dict[str, Method]) -> None:
    one = parse_space("methods: {width: {bold: true, keep: 0.5}, tokens: }", source="s.yaml", methods=methods)
    other = parse_space("methods: {tokens: , width: {keep: 0.5, bold: true}}", source="s.yaml", methods=methods)
    assert one.digest() == other.digest()
    assert one.digest() != parse_space("methods: {tokens: }", source="s.yaml", methods=methods).digest()


def test_space_read_back_from_json_draws_the_same(whole: Space, methods: dict[str, Method], shape: ViTShape) -> None:
    again = Space.from_json(whole.to_json())
    for number in range(10):
        draws = [space.sample(Uniform(str(number)), methods, shape) for space in (whole, again)]
        assert draws[0] == draws[1]


@given(seed=st.text(max_size=8))
def test_every_draw_lies_inside_its_space(whole: Space, methods: dict[str, Method], shape: ViTShape, seed: str) -> None:
    draw = whole.sample(Uniform(seed), methods, shape)
    assert whole.contains(draw, shape)
    assert methods[draw.method].repair(shape, draw.steps[0].knobs)
    assert ("layer_2" in draw.steps[0].knobs) == (draw.steps[0].knobs.get("cuts") == 2)


def test_optuna_trial_can_draw(whole: Space, methods: dict[str, Method], shape: ViTShape) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    draw = whole.sample(trial, methods, shape)
    assert trial.params["method"] == draw.method
    assert trial.params["training.lr"] == draw.training["lr"]


def test_training_settings_are_fields_of_training_with_their_defaults() -> None:
    usual = TrainingSettings()
    assert all(knob.default == getattr(usual, name) and is_inside(knob, knob.default, 12) for name, knob in TRAINING.items())
    assert "epochs" not in TRAINING


def test_what_a_method_replaces_is_not_drawn_for_it() -> None:
    """SiT has a distillation of its own, and others train on the labels alone: to draw the recipe's would waste a dimension."""
    space, shape = load_space("default"), make_dense("deit", depth=6).shape
    for unit, chain in space.units.items():
        drawn = space.sample(Uniform("a"), METHODS, shape, units=[unit])
        without = chain[-1] in ("sit", "sit_seeded", "life_regression", "vit_slim")
        assert set(drawn.training) == ({"lr"} if without else {"lr", "distillation"})
        assert space.contains(drawn, shape)
    first = parse_space("methods: {sit: {recalibrate: first}}\ntraining: {distillation: {low: 0, high: 1}}", source="s.yaml")
    assert set(first.sample(Uniform("a"), METHODS, shape).training) == {"distillation"}


def test_a_rest_is_drawn_for_chains_alone() -> None:
    text = "methods: {width: , merge: }\nchains: [width, [width, merge]]\ntraining: {rest_share: [0.0, 0.1]}"
    space, shape = parse_space(text, source="s.yaml"), make_dense("deit", depth=6).shape
    draws = [space.sample(Uniform(str(number)), METHODS, shape, units=["width+merge"]) for number in range(10)]
    assert {draw.training["rest_share"] for draw in draws} == {0.0, 0.1}
    assert all(space.contains(draw, shape) for draw in draws)
    assert space.sample(Uniform("0"), METHODS, shape, units=["width"]).training == {}


def test_a_setting_that_has_no_effect_teaches_nothing() -> None:
    """Two SiT recipes that differ by it alone are one point for every sampler."""
    space, shape = load_space("default"), make_dense("deit", depth=6).shape
    dense = Plan.dense(shape)
    solved = solve(METHODS["sit"], shape, dense, {}, int(0.6 * predict(shape, dense).total))
    encoder = Encoder(space, shape, METHODS, dense)
    vectors, params = [], []
    for distillation in (0.2, 0.9):
        step = Step(method="sit", knobs=solved.knobs)
        recipe = Recipe(steps=(step,), budget=solved.flops, training=TrainingSettings(distillation=distillation), seed=0)
        vectors.append(encoder.encode(recipe, solved.plan).tolist())
        replayed = replay(recipe, space, METHODS, shape)
        assert replayed is not None
        assert "training.distillation" not in replayed.params
        params.append(replayed.params)
        flat = flat_replay(recipe, space, METHODS, shape, constant=True)
        assert flat is not None
        assert flat.params["training.distillation"] == space.training["distillation"].default
    assert vectors[0] == vectors[1]
    assert params[0] == params[1]


def test_a_file_may_set_what_is_not_drawn() -> None:
    space = parse_space("methods: {sit: {token_weight: 0, logit_weight: {low: 0.5}}}", source="s.yaml")
    knobs = space.methods["sit"]
    assert (knobs["token_weight"].low, knobs["token_weight"].high) == (0, 0)
    assert (knobs["logit_weight"].low, knobs["logit_weight"].high, knobs["logit_weight"].log) == (0.5, 8, True)
    with pytest.raises(SpaceError, match="allowed: 0 to 8"):
        parse_space("methods: {sit: {token_weight: 9}}", source="s.yaml")


def test_shared_work_has_the_settings_that_a_space_fixes(methods: dict[str, Method]) -> None:
    """A mask search is trained as the trials are, in all that does not differ between them."""
    text = "methods: {tokens: }\ntraining: {mixup: 0.8, flip: false, batch_size: 32, lr: {low: 1e-4, high: 1e-3}, distillation: [0.0, 1.0]}"
    space = parse_space(text, source="s.yaml", methods=methods)
    fixed = TrainingSettings(mixup=0.8, flip=False, batch_size=32)
    for one in (space, Space.from_json(space.to_json())):
        assert one.with_fixed(TrainingSettings()) == fixed
        assert isinstance(one.with_fixed(TrainingSettings()).batch_size, int)
