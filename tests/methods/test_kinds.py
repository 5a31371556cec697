"""On every kind of model, whatever a method makes of it costs what its plan says, to the integer."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from helpers.examples import THOROUGH
from helpers.marks import ONE_OF_A_KIND
from helpers.tiny import KINDS, MODELS, PARTS, images, logits, make_dense

from autoslim.core.job import ModelSpec
from autoslim.core.plan import BlockPlan, Plan
from autoslim.core.recipe import Knobs
from autoslim.core.shape import BlockShape, ViTShape
from autoslim.cost import count_flops, predict, predict_params
from autoslim.errors import UnsupportedModelError
from autoslim.methods import METHODS, Solved, evaluate, refusals
from autoslim.models import create_dense, write_folder

RECIPES = 100 if THOROUGH else 2
REFUSALS = {kind: refusals(make_dense(kind).shape) for kind in KINDS}
CASES = [(method, kind) for kind in KINDS for method in METHODS if method not in REFUSALS[kind]]


def marks(method: str, kind: str) -> list[pytest.MarkDecorator]:
    # What a kind adds is the same for all methods that remove tokens, and for all that remove widths.
    return [] if kind in PARTS and method in ONE_OF_A_KIND else [pytest.mark.slow]


each_case = pytest.mark.parametrize(("method", "kind"), [pytest.param(*case, marks=marks(*case)) for case in CASES])


def drawn(method: str, shape: ViTShape, source: random.Random) -> Solved:
    """A recipe with knobs from anywhere in their ranges; those that this model does not take are drawn again."""
    knobs: Knobs = {}
    for name, knob in METHODS[method].ranges.items():
        if knob.kind == "choice":
            knobs[name] = source.choice(knob.choices or ())
        elif knob.kind == "layer":
            knobs[name] = source.randint(1, shape.depth - 1)
        elif knob.searched:
            assert knob.low is not None
            assert knob.high is not None
            knobs[name] = (
                source.randint(int(knob.low), int(knob.high)) if knob.kind == "int" else source.uniform(knob.low, knob.high)
            )
    try:
        return evaluate(METHODS[method], shape, Plan.dense(shape), knobs)
    except UnsupportedModelError:
        return drawn(method, shape, source)


def any_widths(own: BlockShape, dense: BlockPlan, source: random.Random) -> BlockPlan:
    """Widths as a ranking may leave them, with heads and sub-layers that are gone."""
    heads = source.randint(0, own.heads)
    # Heads whose dimensions are tied have all of them.
    width = own.head_width if own.tied_dims else source.randint(1, own.head_width)
    return dense.replace(heads=heads, head_width=width if heads else 0, hidden=source.randint(0, own.hidden))


@pytest.mark.slow
@each_case
def test_any_recipe_costs_what_fvcore_counts(method: str, kind: str):
    dense, source = make_dense(kind), random.Random(f"{method} {kind}")
    for _ in range(RECIPES):
        solved = drawn(method, dense.shape, source)
        plan = solved.plan
        if method in ("width", "vit_slim"):
            blocks = zip(dense.shape.blocks, plan.blocks, strict=True)
            plan = plan.replace(blocks=tuple(any_widths(own, block, source) for own, block in blocks))
        model = METHODS[method].build(copy.deepcopy(dense.module), dense.shape, plan, solved.knobs)
        assert count_flops(model, 32) == predict(dense.shape, plan).total, solved.knobs
        assert sum(p.numel() for p in model.parameters()) == predict_params(dense.shape, plan), solved.knobs


@pytest.mark.parametrize("kind", PARTS)
def test_a_folder_in_timms_format_is_loaded(kind: str, tmp_path: Any):
    dense = make_dense(kind)
    write_folder(
        tmp_path,
        dense.module,
        dense.architecture,
        preprocessing=dense.preprocessing,
        classes=tuple(f"class {n}" for n in range(10)),
    )
    again = create_dense(ModelSpec(name=str(tmp_path)))
    assert (again.trained, again.head_fits, again.resampled) == (True, True, False)
    assert again.shape == dense.shape
    assert (logits(again.module, images()) == logits(dense.module, images())).all()


def test_the_kinds_do_not_hide_each_other():
    assert not set(MODELS) & set(PARTS)
