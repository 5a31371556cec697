"""The score by hand, the cut, and what the refit makes up for."""

from __future__ import annotations

import copy
import functools
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import (
    MODELS,
    TinySharedTrainer,
    attached,
    context_of,
    images,
    logits,
    make_dense,
    prune,
    share_of_dense,
    shared_of,
    slim,
    solved_knobs,
)
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from autoslim.core.plan import Plan
from autoslim.cost import count_flops, predict
from autoslim.errors import InfeasibleError, UnsupportedModelError
from autoslim.methods import METHODS, evaluate, solve
from autoslim.methods.layers.rectangular_block import class_query_last
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.methods.unit_removal.gates import gate_widths
from autoslim.methods.width.gate_gradients import gradient_rms
from autoslim.methods.width.method import PASS_IMAGES, PASSES

METHOD = METHODS["width"]

# For the contract suite.

KEEP_ALL = {"keep": 1.0}


def check_training_form_is_pruned_form(model: str) -> None:
    """Nothing is trained before pruning. Without the refit, the cut model is the dense one with gates of 0 on what is removed."""
    dense = make_dense(model)
    dense.module.double()
    knobs = solved_knobs("width", dense.shape, knobs={"refit": False})
    student = attached("width", dense, knobs)
    worths = [(block.worth_HK.clone(), block.worth_F.clone()) for block in blocks_of(student)]
    finished = prune("width", student, dense.shape, knobs)
    masked = copy.deepcopy(dense.module)
    for block, plan, worth in zip(blocks_of(masked), finished.plan.blocks, worths, strict=True):
        for zeta, own, count in zip(gate_widths(block), worth, (plan.head_width, plan.hidden), strict=True):
            zeta.data.scatter_(-1, own.sort(dim=-1, descending=True).indices[..., count:], 0.0)
    x = images(dtype=torch.float64)
    assert predict(dense.shape, finished.plan).total < predict(dense.shape, Plan.dense(dense.shape)).total
    torch.testing.assert_close(logits(finished.model, x), logits(masked, x), rtol=0, atol=1e-10)


# The score.


def drawn_labels(logits_BC: Tensor, generator: torch.Generator) -> Tensor:
    return logits_BC.softmax(dim=1).multinomial(1, generator=generator).squeeze(1)


def test_the_worth_of_a_hidden_unit_is_the_root_mean_square_of_its_gradient_by_hand():
    """By a difference quotient, which knows nothing of gates: fc2's column of the unit times 1 + h and times 1 - h."""
    dense = make_dense()
    dense.module.double()
    batches = [images(4, seed=seed, dtype=torch.float64) for seed in (1, 2, 3)]
    rms = gradient_rms(copy.deepcopy(dense.module), batches)
    generator = torch.Generator().manual_seed(0)
    labels = [drawn_labels(logits(dense.module, x).float(), generator) for x in batches]
    h = 1e-4
    for block, unit in ((0, 3), (2, 100), (3, 191)):
        gradients = []
        for x, y in zip(batches, labels, strict=True):
            ends = []
            for factor in (1 + h, 1 - h):
                moved: Any = copy.deepcopy(dense.module)
                moved.blocks[block].mlp.fc2.weight.data[:, unit] *= factor
                ends.append(float(functional.cross_entropy(logits(moved, x), y)))
            gradients.append((ends[0] - ends[1]) / (2 * h))
        by_hand = (sum(g**2 for g in gradients) / len(gradients)) ** 0.5
        # The logits' loss is in float32, as autocast leaves it.
        assert float(rms[block][1][unit]) == pytest.approx(by_hand, rel=1e-3, abs=1e-6)


def test_the_gate_of_a_head_dimension_is_on_its_query_key_and_value():
    dense = make_dense()
    dense.module.double()
    x = images(4, dtype=torch.float64)
    rms = gradient_rms(copy.deepcopy(dense.module), [x])
    y = drawn_labels(logits(dense.module, x).float(), torch.Generator().manual_seed(0))
    h = 1e-4
    for block, head, dim in ((0, 0, 0), (1, 2, 7), (3, 1, 15)):
        ends = []
        for factor in (1 + h, 1 - h):
            moved: Any = copy.deepcopy(dense.module)
            qkv = moved.blocks[block].attn.qkv
            for part in range(3):
                row = part * 48 + head * 16 + dim
                qkv.weight.data[row] *= factor
                qkv.bias.data[row] *= factor
            ends.append(float(functional.cross_entropy(logits(moved, x), y)))
        assert float(rms[block][0][head, dim]) == pytest.approx(abs(ends[0] - ends[1]) / (2 * h), rel=1e-3, abs=1e-6)


class Counted(TinySharedTrainer):
    """Notes how many images it is asked for; has as many."""

    def images(self, count: int) -> Any:
        self.asked = count
        for start in range(0, count, 96):
            yield images(min(96, count - start), seed=start)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("nothing is trained")


def test_a_dozen_passes_are_the_only_work_and_all_trials_share_them():
    dense = make_dense()
    trainer = Counted(dense)
    work = METHOD.prepare(trainer, {})
    with pytest.raises(StopIteration) as end:
        while True:
            assert next(work).epoch == 0.0
    assert trainer.asked == PASSES * PASS_IMAGES
    assert set(end.value.value) == {f"{block}.{part}" for block in range(4) for part in ("attention", "mlp")}
    for knobs in ({}, {"cost_power": 1.0, "whole": "heads", "width_multiple": 8, "refit": False}):
        repaired = METHOD.repair(dense.shape, knobs)
        assert METHOD.shared_settings(dense.shape, repaired) == {}
        assert METHOD.shared_share({}) == METHOD.train_share(repaired) == 0


def test_the_measurement_leaves_the_dense_model_as_it_was():
    dense = make_dense()
    trainer = TinySharedTrainer(dense)
    before = logits(trainer.teacher, images())
    list(METHOD.prepare(trainer, {}))
    assert torch.equal(logits(trainer.teacher, images()), before)
    assert not any("zeta" in name for name, _ in trainer.teacher.named_parameters())


# The cut.


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("share", [0.35, 0.5, 0.7])
def test_the_cut_meets_the_budget_to_the_integer(model: str, share: float):
    """What fvcore counts is what the plan says, within the budget, and the next unit would exceed it."""
    dense = make_dense(model)
    finished = slim("width", dense, share=share)
    budget = share_of_dense(dense.shape, share)
    counted = count_flops(finished.model, 32)
    assert counted == predict(dense.shape, finished.plan).total <= budget
    # The cheapest unit of this model, one hidden unit of one block.
    unit = 2 * dense.shape.dim * dense.shape.tokens
    assert counted > budget - unit or all(block.hidden == dense.shape.hidden for block in finished.plan.blocks)


def test_units_of_less_worth_go_first():
    dense = make_dense()
    knobs = solved_knobs("width", dense.shape, knobs={"refit": False})
    student: Any = attached("width", dense, knobs)
    for block in blocks_of(student):
        block.worth_F[:100] = 0.0  # type: ignore[index]
    fc1 = [block.mlp.fc1.weight.clone() for block in blocks_of(student)]
    finished = prune("width", student, dense.shape, knobs)
    for block, plan, rows in zip(blocks_of(finished.model), finished.plan.blocks, fc1, strict=True):
        kept = {tuple(row.tolist()) for row in block.mlp.fc1.weight}
        worthless = [tuple(row.tolist()) in kept for row in rows[:100]]
        assert not any(worthless) or plan.hidden > 92


def test_a_higher_power_of_cost_moves_the_cut_to_what_is_dear():
    """A dimension of a head costs more than a hidden unit, and more so counted in full than not at all."""
    dense = make_dense()
    attention = []
    for power in (0.0, 1.0):
        plan = slim("width", dense, knobs={"cost_power": power}).plan
        attention.append(sum(block.attention_width for block in plan.blocks))
    assert attention[0] > attention[1]


@pytest.mark.parametrize("share", [0.35, 0.5, 0.7])
def test_the_refit_does_not_worsen_the_first_block(share: float):
    """On the images that it is fitted to, what the first block puts out is nearer to the dense model's than without it."""
    dense = make_dense()
    dense.module.double()
    x = images(64, dtype=torch.float64)
    error = {}
    for refit in (True, False):
        knobs = solved_knobs("width", dense.shape, share, {"refit": refit})
        context = context_of(dense.shape, knobs, share, shared=shared_of("width", dense, knobs))
        student = METHOD.attach(copy.deepcopy(dense.module), context, x)
        finished = prune("width", student, dense.shape, knobs, share)
        error[refit] = float((first_block(finished.model, x) - first_block(dense.module, x)).square().mean())
    assert error[True] < error[False]


def first_block(model: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        out: Tensor = blocks_of(model)[0](model.norm_pre(model._pos_embed(model.patch_embed(x))))
    return out


def test_heads_with_normalised_queries_keep_their_widths_and_may_go_whole():
    """The norm of a head's queries mixes its dimensions: the MLPs give, and whole heads where they may."""
    dense = make_dense("normalised queries")
    for whole, kept in (("none", {3}), ("heads", {1, 2, 3})):
        finished = slim("width", dense, knobs={"whole": whole})
        assert {block.head_width for block in finished.plan.blocks} == {16}
        assert {block.heads for block in finished.plan.blocks} <= kept
        assert any(block.hidden < 192 for block in finished.plan.blocks)


def test_a_model_that_an_earlier_step_has_cut_is_refused():
    shape = make_dense().shape
    with pytest.raises(UnsupportedModelError, match="width must be a recipe's first step"):
        METHOD.expect(shape, Plan.dense(shape).with_tokens((17, 10, 10, 10)), METHOD.repair(shape, {}))


def test_keep_is_a_share_of_every_width_and_never_nothing():
    shape = make_dense().shape
    for keep, (head, hidden) in {1.0: (16, 192), 0.5: (8, 96), 0.02: (1, 3)}.items():
        blocks = evaluate(METHOD, shape, Plan.dense(shape), {"keep": keep}).plan.blocks
        assert {(block.head_width, block.hidden) for block in blocks} == {(head, hidden)}


recipes = functools.partial(settings, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
each_recipe = given(model=st.sampled_from(["vit", "deit", "distilled"]), seed=st.integers(0, 10**6), share=st.floats(0.35, 0.9))


@pytest.mark.slow
@recipes(max_examples=10)
@each_recipe
def test_random_recipes_cost_what_is_predicted(model: str, seed: int, share: float):
    check_random_recipe(model, seed, share)


@pytest.mark.slow
@recipes(max_examples=100)
@each_recipe
def test_a_hundred_random_recipes_cost_what_is_predicted(model: str, seed: int, share: float):
    check_random_recipe(model, seed, share)


def check_random_recipe(model: str, seed: int, share: float) -> None:
    """Every knob drawn, worths anywhere; cut, counted and built again."""
    dense, draw = _dense(model), random.Random(seed)
    drawn = {
        name: draw.choice(knob.choices) if knob.choices is not None else draw.uniform(knob.low, knob.high)
        for name, knob in METHOD.ranges.items()
    }
    budget, query = share_of_dense(dense.shape, share), draw.random() < 0.3
    plan = Plan.dense(dense.shape, class_query=query)
    try:
        solved = solve(METHOD, dense.shape, plan, drawn, budget)
    except InfeasibleError:
        assume(False)
    generator = torch.Generator().manual_seed(seed)
    shared = {name: torch.rand(worth.shape, generator=generator) for name, worth in _shared(model).items()}
    context = context_of(dense.shape, solved.knobs, share, shared=shared, class_query=query)
    with torch.no_grad():
        finished = METHOD.prune(METHOD.attach(copy.deepcopy(dense.module), context, images()), context)
    cut = class_query_last(finished.model, dense.shape.prefix_tokens) if query else finished.model
    assert count_flops(cut, 32) == predict(dense.shape, finished.plan).total <= budget
    finished.plan.check(dense.shape)
    fresh = METHOD.build(copy.deepcopy(dense.module), dense.shape, finished.plan, finished.knobs)
    fresh = class_query_last(fresh, dense.shape.prefix_tokens) if query else fresh
    fresh.load_state_dict(cut.state_dict(), strict=True)


@functools.cache
def _dense(model: str) -> Any:
    return make_dense(model)


@functools.cache
def _shared(model: str) -> dict[str, Tensor]:
    shared = shared_of("width", _dense(model), METHOD.repair(_dense(model).shape, {}))
    assert shared is not None
    return shared


@pytest.mark.slow
def test_the_gradients_are_worth_points_on_real_images(tmp_path: Path):
    """With its worths shuffled within every layer and part the same cut keeps fewer images right."""
    folder = os.environ.get("AUTOSLIM_DATA")
    if not folder or not Path(folder, "vit-cifar10").is_dir():
        pytest.skip("AUTOSLIM_DATA does not name a folder with vit-cifar10")
    from autoslim.core.job import DatasetSpec
    from autoslim.core.recipe import TrainingSettings
    from autoslim.data import prepare_dataset
    from autoslim.training import TrialContext
    from autoslim.training.device import Precision
    from autoslim.training.evaluate import accuracy
    from autoslim.training.shared_trainer import TrialSharedTrainer

    spec = DatasetSpec(source=str(Path(folder, "cifar10")), validation_share=0.02, train_limit=1200)
    dataset = prepare_dataset(spec, tmp_path / "cache", seed=0)
    trial = TrialContext.open(base=Path(folder, "vit-cifar10"), dataset=dataset.path)
    shape, training = trial.dense.shape, TrainingSettings()
    work = METHOD.prepare(TrialSharedTrainer(trial, training, seed=0, checkpoint=tmp_path / "checkpoint"), {})
    with pytest.raises(StopIteration) as end:
        while True:
            next(work)
    measured: dict[str, Tensor] = end.value.value
    generator = torch.Generator().manual_seed(0)

    def shuffled(tensor: Tensor) -> Tensor:
        return tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].view(tensor.shape)

    validation = trial.loader(trial.splits.validation, training, seed=0, train=False)
    right = {}
    for name, shared in (("measured", measured), ("shuffled", {name: shuffled(worth) for name, worth in measured.items()})):
        knobs = solved_knobs("width", shape, 0.35)
        context = context_of(shape, knobs, 0.35, shared=shared)
        with torch.no_grad():
            student: nn.Module = METHOD.attach(trial.student(), context, trial.calibration(training, seed=0))
            finished = METHOD.prune(student, context)
        right[name] = accuracy(finished.model, validation, device=trial.device, precision=Precision.FLOAT32)
    # Two standard errors of the difference on 1,000 images; the widths of the layers are nearly the same.
    assert right["measured"] > right["shuffled"] + 0.03
    assert right["measured"] > 0.7
