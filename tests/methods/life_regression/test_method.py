"""The paper's own claims (arXiv 2304.04926), and where ours is different on purpose."""

from __future__ import annotations

import copy
import dataclasses
import os
import statistics
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from helpers.merged_tokens import check_merging, passes
from helpers.tiny import (
    attach,
    attached,
    batch_of,
    context_of,
    images,
    logits,
    logits_of,
    make_dense,
    prune,
    slim,
    solved_knobs,
)
from torch import Tensor, nn
from torch.nn import functional

from autoslim.core.job import DatasetSpec
from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs, TrainingSettings
from autoslim.core.shape import ViTShape
from autoslim.cost import predict
from autoslim.data import prepare_dataset
from autoslim.methods import METHODS, solve
from autoslim.methods.layers.merging import MergeInto
from autoslim.methods.layers.token_counts import token_counts
from autoslim.methods.layers.token_selector import FirstTokens
from autoslim.methods.layers.token_trunk import pre_blocks_of
from autoslim.methods.layers.tokens import behind_prefix, key_mask, order_by, standardise
from autoslim.methods.life_regression.regressor import KeepLongestLived, LifeRegressor, patch_lives
from autoslim.methods.life_regression.schedule import fitted_moments, life_moments, schedule
from autoslim.methods.trainer import COSINE, DISTILLATION
from autoslim.models import read_shape
from autoslim.models.placed_tokens import gather_tokens
from autoslim.training import TrialContext
from autoslim.training.shared_trainer import TrialSharedTrainer

METHOD = METHODS["life_regression"]

# For the contract suite.

KEEP_ALL = {f"life_threshold_{k}": 0.0 for k in range(1, 5)}
VARIANTS = {
    "threshold": {"mode": "threshold"},
    "every": {"drops": "every"},
    "read once more": {"last_reading": True},
    "diverse": {"diversity": 0.5, "start": "impact"},
}

EARLIER: Knobs = {
    "start": "attention",
    "ends": "drops",
    "temperature": 4.0,
    "loss": "recipe",
    "lr_decay": "cosine",
    "train_share": 0.2,
    "regressor_lr": 20.0,
    "tune": "all",
}
"""The defaults of version 0.1.0."""


def check_the_longest_lived_are_joined(case: str, model: str) -> None:
    """Where patches merge, the soft form has no equal: the pruned form's drops are compared with merging written out."""
    dense = make_dense(model)
    dense.module.double()
    knobs = solved_knobs(case, dense.shape)
    cut = prune(case, attached(case, dense, knobs).double().eval(), dense.shape, knobs).model
    check_merging(cut, dense.module)
    prefix = dense.shape.prefix_tokens
    seen = passes(cut, images(dtype=torch.float64), MergeInto)
    first, entered, left = seen[0]
    life_BP = first.selector.regressor(entered.x_BND)
    shortest = left.x_BND.shape[1] - prefix
    assert torch.equal(first.selector.rows(entered.x_BND)[:, prefix:] - prefix, order_by(life_BP)[:, :shortest])


def check_training_form_is_pruned_form(model: str, variant: str = "") -> None:
    """The soft form with lives that end exactly where the pruned form drops, against the tokens that the pruned form leaves."""
    dense = make_dense(model)
    dense.module.double()
    knobs = solved_knobs(f"life_regression:{variant}" if variant else "life_regression", dense.shape) | {"temperature": 16.0}
    student = attached("life_regression", dense, knobs).double().eval()
    trunk = student.blocks
    layers, caps = schedule(dense.shape, knobs)
    own_lives = trunk.lives
    orders, kept = [], []

    def lives(x_BND: Tensor) -> Tensor:
        life_BP = own_lives(x_BND)
        orders.append(order_by(life_BP))
        rank_end_BP = torch.full(life_BP.shape, float(dense.shape.depth), dtype=torch.float64)
        rank_P = torch.arange(dense.shape.patches)
        for layer, cap in reversed(list(zip(layers, caps, strict=True))):
            threshold = knobs["mode"] == "threshold"
            longer_B = (life_BP > layer).sum(dim=1) if threshold else torch.full((len(life_BP),), cap)
            kept.append(longer_B.clamp(min=1, max=cap))
            rank_end_BP[rank_P >= kept[-1][:, None]] = layer
        return torch.empty_like(rank_end_BP).scatter(1, orders[0], rank_end_BP) - 0.5

    trunk.lives = lives
    trunk.temperature = 1e4
    x = images(dtype=torch.float64)
    with torch.no_grad():
        soft_BND = student.forward_features(x)
        finished = prune("life_regression", copy.deepcopy(student), dense.shape, knobs).model.double()
        hard_BND = finished.forward_features(x)
    prefix, kept_B = dense.shape.prefix_tokens, kept[0]
    if knobs["mode"] == "threshold":
        assert torch.equal(token_counts(finished, x)[:, -1, 1], kept_B + prefix)
    for image, patches in enumerate(kept_B.tolist()):
        rows_K = torch.cat((torch.arange(prefix), orders[0][image, :patches] + prefix))
        assert len(rows_K) < dense.shape.tokens
        torch.testing.assert_close(hard_BND[image, : len(rows_K)], soft_BND[image, rows_K], rtol=0, atol=1e-10)


# The code's schedules for DeiT-S: tokens, class token included, from blocks 4, 7 and 10 on.
SCHEDULES = {0.7: (140, 100, 72), 0.8: (159, 129, 105), 0.9: (179, 163, 148)}
MOMENTS = {0.7: (0.5482, 0.4175), 0.8: (0.6815, 0.3992), 0.9: (0.8388, 0.3200)}


@pytest.mark.parametrize("keep", SCHEDULES)
def test_moments_are_those_of_the_code_for_its_three_schedules(keep: float):
    kept = [tokens - 1 for tokens in SCHEDULES[keep]]
    mean, deviation = life_moments([4, 7, 10], kept, patches=196, prefix=1, depth=12)
    assert ((mean - 4) / 8, deviation / 8) == pytest.approx(MOMENTS[keep], abs=5e-5)


@pytest.mark.parametrize("keep", SCHEDULES)
def test_the_codes_schedules_are_life_thresholds_of_ours(keep: float):
    with torch.device("meta"):
        shape = read_shape(timm.create_model("deit_small_patch16_224"))
    knobs = {"drops": 3}
    for k, (layer, tokens) in enumerate(zip((4, 7, 10), SCHEDULES[keep], strict=True), 1):
        knobs |= {f"drop_layer_{k}": layer, f"life_threshold_{k}": 1 - (tokens - 1) / 196}
    plan = METHOD.expect(shape, Plan.dense(shape), METHOD.repair(shape, knobs))
    first, second, third = SCHEDULES[keep]
    assert [block.tokens_kv for block in plan.blocks] == [197] * 4 + [first] * 3 + [second] * 3 + [third] * 2


# Matrix products of the code's three schedules, in units of 1e9: DeiT-Ti, DeiT-S and DeiT-B.
FLOPS = {
    ("tiny", 0.7): 0.858,
    ("small", 0.7): 3.177,
    ("small", 0.8): 3.586,
    ("small", 0.9): 4.080,
    ("base", 0.7): 12.200,
    ("base", 0.8): 13.761,
    ("base", 0.9): 15.627,
}
# The same in fvcore's count, with norms and with the code's regressor, which multiplies every patch with W.
WITH_REGRESSOR = {0.7: 3.213, 0.8: 3.622, 0.9: 4.117}


def deit(size: str) -> ViTShape:
    with torch.device("meta"):
        return read_shape(timm.create_model(f"deit_{size}_patch16_224"))


def codes_schedule(keep: float) -> Knobs:
    layers = {f"drop_layer_{k}": layer for k, layer in enumerate((4, 7, 10), 1)}
    return layers | {f"life_threshold_{k}": 1 - (tokens - 1) / 196 for k, tokens in enumerate(SCHEDULES[keep], 1)}


@pytest.mark.parametrize(("size", "keep"), FLOPS)
def test_the_codes_schedules_cost_what_they_cost_there(size: str, keep: float):
    shape = deit(size)
    plan = METHOD.expect(shape, Plan.dense(shape), METHOD.repair(shape, codes_schedule(keep)))
    cost = predict(shape, plan)
    assert cost.matmuls / 1e9 == pytest.approx(FLOPS[size, keep], abs=5e-4)
    if size == "small":
        (ours,) = plan.extras
        theirs = shape.patches * (shape.dim**2 + shape.dim)
        assert (cost.total - ours.matmuls + theirs) / 1e9 == pytest.approx(WITH_REGRESSOR[keep], abs=5e-4)


@pytest.mark.parametrize("keep", SCHEDULES)
def test_the_default_layers_are_the_codes_at_its_budgets(keep: float):
    shape = deit("small")
    start = Plan.dense(shape)
    budget = predict(shape, METHOD.expect(shape, start, METHOD.repair(shape, codes_schedule(keep)))).total
    solved = solve(METHOD, shape, start, {}, budget)
    assert [solved.knobs[f"drop_layer_{k}"] for k in (1, 2, 3)] == [4, 7, 10]
    assert 0.995 * budget <= solved.flops <= budget


def test_the_defaults_are_the_papers_method():
    dense = make_dense("vit", depth=6)
    knobs = METHOD.repair(dense.shape, {})
    assert (knobs["mode"], knobs["drops"], knobs["dead"]) == ("fixed", 3, "drop")
    assert (knobs["start"], knobs["ends"], knobs["temperature"]) == ("uniform", "blocks", 1.0)
    assert (knobs["loss"], knobs["tune"]) == ("labels", "blocks")
    # As many epochs for the regressor as for the blocks, at 1e-3 and 1e-5.
    assert (METHOD.train_share(knobs), METHOD.finetune_rate(knobs)) == (0.5, 1.0)
    assert (knobs["regressor_lr"], METHOD.lr_decay(knobs)) == (100, "linear")
    ends = attach("life_regression", dense, knobs).blocks.ends
    assert [ends.of(block, torch.zeros(1, 64)) for block in range(ends.first, 6)] == list(range(ends.first, 6))


def test_w_starts_uniform_between_0_and_1_and_follows_the_seed():
    dense = make_dense("vit")
    knobs = METHOD.repair(dense.shape, {})
    starts = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        starts.append(
            METHOD.attach(copy.deepcopy(dense.module), context_of(dense.shape, knobs), images()).blocks.regressor.weight
        )
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    assert starts[0].min() >= 0 and starts[0].max() <= 1
    assert starts[0].mean().item() == pytest.approx(0.5, abs=0.03)
    assert starts[0].std().item() == pytest.approx(12**-0.5, abs=0.01)


def test_both_phases_minimise_the_labels_loss_unless_the_recipes_is_asked_for():
    dense = make_dense("vit")
    for loss, wanted in (("labels", "label_loss"), ("recipe", "task_loss")):
        knobs = solved_knobs("life_regression", dense.shape, knobs={"loss": loss})
        batch = batch_of(attach("life_regression", dense, knobs), copy.deepcopy(dense.module), dense.shape, distillation=0.5)
        assert batch.label_loss != batch.task_loss
        assert METHOD.loss(knobs, batch)["loss"] == METHOD.finetune_loss(knobs, batch)["loss"] == getattr(batch, wanted)
        assert METHOD.replaced_settings(knobs) - COSINE == (DISTILLATION if wanted == "label_loss" else frozenset())


def test_how_a_cosine_ends_is_nothing_to_a_rate_that_falls_in_a_line():
    shape = make_dense("vit").shape
    for decay, idle in (("linear", COSINE), ("cosine", frozenset())):
        assert METHOD.replaced_settings(METHOD.repair(shape, {"lr_decay": decay, "loss": "recipe"})) == idle


def test_a_recipe_of_an_earlier_version_starts_and_trains_as_it_did():
    dense = make_dense("vit")
    knobs = solved_knobs("life_regression", dense.shape, knobs=EARLIER)
    older = {
        name: value
        for name, value in knobs.items()
        if name not in ("start", "loss", "lr_decay", "dead", "last_reading", "diversity", "anneal", "noise", "gradual")
    }
    assert METHOD.repair(dense.shape, older) == knobs
    now, then = (attach("life_regression", dense, own) for own in (knobs, older))
    assert torch.equal(now.blocks.regressor.weight, then.blocks.regressor.weight)
    batch = batch_of(then, copy.deepcopy(dense.module), dense.shape, distillation=0.5)
    assert METHOD.loss(older, batch)["loss"] == batch.task_loss
    assert METHOD.lr_decay(older) == METHOD.lr_decay(knobs) == "cosine"


def test_lives_may_end_before_any_block():
    shape = make_dense("vit", depth=6).shape
    knobs = {"drops": "every", "drop_layer_1": 1, "life_threshold_1": 0.25, "life_threshold_2": 0.875}
    repaired = METHOD.repair(shape, knobs)
    assert schedule(shape, repaired) == ([1, 2, 3, 4, 5], [48, 38, 28, 18, 8])
    assert [b.tokens_kv for b in METHOD.expect(shape, Plan.dense(shape), repaired).blocks] == [65, 49, 39, 29, 19, 9]
    spare = METHOD.repair(shape, {**repaired, "spare_until": 3})
    assert schedule(shape, spare) == ([1, 2, 3, 4, 5], [49, 39, 28, 18, 8])


def test_a_deep_model_drops_in_front_of_each_of_its_blocks():
    shape = make_dense("vit", depth=24).shape
    knobs = METHOD.repair(shape, {"drops": "every", "drop_layer_1": 1, "life_threshold_1": 0.0, "life_threshold_2": 0.98})
    counts = [block.tokens_kv for block in METHOD.expect(shape, Plan.dense(shape), knobs).blocks]
    assert counts == sorted(set(counts), reverse=True) or counts[:2] == [65, 65]
    assert len(set(counts)) == 23


def test_lives_have_the_schedules_moments_in_every_image():
    dense = make_dense("vit")
    knobs = solved_knobs("life_regression", dense.shape)
    trunk = attached("life_regression", dense, knobs).blocks
    lives_BP = trunk.lives(torch.randn(5, dense.shape.tokens, 48)).detach()
    mean, deviation = trunk.life
    for lives_P in lives_BP.tolist():
        assert statistics.fmean(lives_P) == pytest.approx(mean, abs=1e-3)
        assert statistics.stdev(lives_P) == pytest.approx(deviation, abs=1e-3)


def test_standardising_keeps_the_order():
    score_BP = torch.randn(4, 50)
    assert torch.equal(order_by(standardise(score_BP, mean=7.0, std=2.0)), order_by(score_BP))


def test_equal_scores_stay_in_reading_order():
    assert order_by(torch.tensor([[1.0, 2.0, 1.0, 2.0, 1.0]])).tolist() == [[1, 3, 0, 2, 4]]


def test_weighted_softmax_is_the_explicit_formula():
    """attention_ij = w_j exp(z_ij) / sum_k w_k exp(z_ik), after methods.py of the code; a weight of 0 is a key that is not there."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 7, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    weight_BN = torch.rand(2, 7, generator=generator, dtype=torch.float64)
    weight_BN[:, 3] = 0
    exponential = (q @ k.mT / 5**0.5).exp() * weight_BN[:, None, None, :]
    expected = exponential / exponential.sum(-1, keepdim=True) @ v
    found = functional.scaled_dot_product_attention(q, k, v, attn_mask=key_mask(weight_BN.log()))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    left = [0, 1, 2, 4, 5, 6]
    without = functional.scaled_dot_product_attention(
        q, k[:, :, left], v[:, :, left], attn_mask=key_mask(weight_BN[:, left].log())
    )
    torch.testing.assert_close(found, without, rtol=0, atol=1e-12)


def _weights_seen(model: str, temperature: float) -> tuple[list[Tensor], Tensor, int, int]:
    """The key weights that each soft block got, the lives, the first soft block and the prefix."""
    dense = make_dense(model)
    knobs = solved_knobs("life_regression", dense.shape) | {"temperature": temperature, "ends": "blocks"}
    student = attached("life_regression", dense, knobs).eval()
    trunk, weights = student.blocks, []

    def note(module, args, kwargs):
        weights.append(kwargs["attn_mask"][:, 0, 0].exp().detach())

    for block in trunk.blocks[trunk.first :]:
        block.register_forward_pre_hook(note, with_kwargs=True)
    lives = []
    original = trunk.lives
    trunk.lives = lambda x_BND: lives.append(original(x_BND)) or lives[-1]
    with torch.no_grad():
        student(images())
    return weights, lives[0], trunk.first, dense.shape.prefix_tokens


@pytest.mark.parametrize("model", ["deit", "distilled", "registers", "average without class token"])
def test_patches_weigh_the_sigmoid_of_their_life_and_prefix_tokens_one(model: str):
    """The code lets the class token's weight fall to 0.73 in the last block, which inference never sees; ours stays 1."""
    weights, lives_BP, first, prefix = _weights_seen(model, 1.5)
    assert len(weights) == 4 - first
    for index, weight_BN in enumerate(weights, first):
        assert torch.equal(weight_BN[:, :prefix], torch.ones(3, prefix))
        torch.testing.assert_close(weight_BN[:, prefix:], torch.sigmoid(1.5 * (lives_BP - index)))


@pytest.mark.parametrize("model", ["deit", "distilled", "average without class token"])
def test_soft_lives_end_between_the_last_patch_that_is_kept_and_the_next(model: str):
    dense = make_dense(model)
    knobs = {"ends": "drops", "drops": 2, "drop_layer_1": 1, "drop_layer_2": 3, "life_threshold_2": 0.7}
    knobs = METHOD.repair(dense.shape, knobs)
    trunk = attached("life_regression", dense, knobs).blocks
    _, (first, second) = schedule(dense.shape, knobs)
    life_BP = torch.randn(5, dense.shape.patches)
    for block, kept in ((1, first), (2, first), (3, second)):
        assert ((life_BP > trunk.ends.of(block, life_BP)).sum(dim=1) == kept).all()


def test_in_threshold_mode_soft_lives_end_at_the_last_drop():
    dense = make_dense(depth=6)
    knobs = {"mode": "threshold", "ends": "drops", "drops": 2, "drop_layer_1": 2, "drop_layer_2": 4}
    ends = attached("life_regression", dense, METHOD.repair(dense.shape, knobs)).blocks.ends
    assert [ends.of(block, torch.zeros(1, 16)) for block in range(2, 6)] == [2, 2, 4, 4]
    paper = attached("life_regression", dense, METHOD.repair(dense.shape, {**knobs, "ends": "blocks"})).blocks.ends
    assert [paper.of(block, torch.zeros(1, 16)) for block in range(2, 6)] == [2, 3, 4, 5]


def test_fitted_lives_keep_as_many_at_each_drop_as_the_schedule():
    normal = statistics.NormalDist(*fitted_moments([2, 4], [0.7, 0.2], deviation=9.0))
    assert [1 - normal.cdf(block) for block in (2, 4)] == pytest.approx([0.7, 0.2])
    normal = statistics.NormalDist(*fitted_moments([3], [0.4], deviation=2.0))
    assert (1 - normal.cdf(3), normal.stdev) == (pytest.approx(0.4), 2.0)
    # The same share at every drop: as many outlive the middle of them.
    normal = statistics.NormalDist(*fitted_moments([2, 3, 4], [0.4, 0.4, 0.4], deviation=2.0))
    assert (1 - normal.cdf(3), normal.stdev) == (pytest.approx(0.4), 2.0)


def test_the_regressor_may_start_at_the_attention_of_the_class_token():
    dense = make_dense("vit")
    knobs = solved_knobs("life_regression", dense.shape, knobs={"start": "attention"})
    trunk = attached("life_regression", dense, knobs).blocks
    block: Any = trunk.blocks[trunk.first]
    block.attn.qkv.bias.data.zero_()
    block.norm1.bias.data.zero_()
    x_BND = torch.randn(2, dense.shape.tokens, 48)
    q_BHNK, k_BHNK, _ = block.attn.qkv(block.norm1(x_BND)).view(2, 65, 3, 3, 16).permute(2, 0, 3, 1, 4)
    expected_BP = (q_BHNK[:, :, :1] @ k_BHNK.mT).sum(dim=1)[:, 0, 1:]
    found_BP = trunk.regressor(x_BND)
    torch.testing.assert_close(
        standardise(found_BP, mean=0, std=1), standardise(expected_BP, mean=0, std=1), rtol=1e-3, atol=1e-4
    )


def test_logit_is_patch_times_weights_times_class_token():
    regressor = LifeRegressor(6, 2)
    torch.nn.init.normal_(regressor.weight)
    x_BND = torch.randn(3, 9, 6)
    normal_BND = functional.layer_norm(x_BND, (6,))
    for image in range(3):
        for patch in range(7):
            expected = normal_BND[image, 2 + patch] @ regressor.weight @ normal_BND[image, 0]
            torch.testing.assert_close(regressor(x_BND)[image, patch], expected, rtol=1e-4, atol=1e-5)


def test_without_a_class_token_the_mean_patch_stands_in():
    regressor = LifeRegressor(6, 0)
    torch.nn.init.normal_(regressor.weight)
    x_BND = torch.randn(2, 5, 6)
    normal_BND = functional.layer_norm(x_BND, (6,))
    expected_BP = torch.einsum("bpd,de,be->bp", normal_BND, regressor.weight, normal_BND.mean(1))
    torch.testing.assert_close(regressor(x_BND), expected_BP, rtol=1e-4, atol=1e-5)


def test_a_register_is_not_taken_for_the_class_token():
    dense = make_dense("average without class token", reg_tokens=3)
    assert (dense.shape.prefix_tokens, dense.shape.class_token) == (3, False)
    regressor = LifeRegressor.of_shape(dense.shape)
    x_BND = torch.randn(2, dense.shape.tokens, 48)
    normal_BND = functional.layer_norm(x_BND, (48,))
    expected_BP = torch.einsum("bpd,de,be->bp", normal_BND[:, 3:], regressor.weight, normal_BND[:, 3:].mean(1))
    torch.testing.assert_close(regressor(x_BND), expected_BP, rtol=1e-3, atol=1e-3)
    with_class = make_dense("registers").shape
    assert with_class.class_token
    # A folder of an earlier version does not tell; its regressor was trained with the first prefix token.
    stored = {name: value for name, value in dense.shape.to_dict().items() if name != "class_token"}
    assert LifeRegressor.of_shape(ViTShape.from_dict(stored)).class_token


def test_tokens_are_sorted_once_and_then_sliced():
    knobs = {"drops": 3, "drop_layer_1": 1, "drop_layer_2": 2, "drop_layer_3": 3}
    knobs |= {"life_threshold_1": 0.2, "life_threshold_2": 0.5, "life_threshold_3": 0.8}
    finished = slim("life_regression", make_dense("vit"), share=0.7, knobs=knobs)
    steps = pre_blocks_of(finished.model)
    assert list(steps) == [1, 2, 3]
    assert [type(step) for step in steps.values()] == [KeepLongestLived, FirstTokens, FirstTokens]
    x_BND = torch.randn(2, 65, 48)
    for step, block in zip(steps.values(), finished.plan.blocks[1:], strict=True):
        kept_BND = step(x_BND)
        if isinstance(step, FirstTokens):
            assert kept_BND.data_ptr() == x_BND.data_ptr(), "a slice is a view"
        assert kept_BND.shape[1] == block.tokens_kv
        assert torch.equal(kept_BND[:, 0], x_BND[:, 0])
        x_BND = kept_BND


def test_the_longest_lived_patches_are_kept_in_falling_order():
    regressor = LifeRegressor(6, 1)
    x_BND = torch.randn(3, 9, 6)
    kept_BND = KeepLongestLived(regressor, 4, (0.0, 1.0))(x_BND)
    score_BP = regressor(x_BND)
    for image in range(3):
        best = sorted(range(8), key=lambda patch: -score_BP[image, patch].item())[:4]
        assert torch.equal(kept_BND[image], x_BND[image, [0, *(1 + patch for patch in best)]])


def test_kept_sets_are_nested():
    score_BP = torch.randn(3, 20)
    sets = [set(order_by(score_BP)[0, :count].tolist()) for count in (15, 9, 4)]
    assert sets[2] < sets[1] < sets[0]


def test_keeping_patches_leaves_the_prefix_in_front():
    x_BND = torch.arange(2 * 5 * 1.0).view(2, 5, 1)
    kept = gather_tokens(x_BND, behind_prefix(torch.tensor([[2, 0], [1, 2]]), num_prefix_tokens=2))
    assert kept[..., 0].tolist() == [[0, 1, 4, 2], [5, 6, 8, 9]]


def test_only_the_regressor_learns_before_the_cut_and_never_after():
    dense = make_dense()
    knobs = solved_knobs("life_regression", dense.shape)
    student = attached("life_regression", dense, knobs)
    assert [name for name, p in student.named_parameters() if p.requires_grad] == ["blocks.regressor.weight"]
    finished = prune("life_regression", student, dense.shape, knobs)
    assert not any(p.requires_grad for name, p in finished.model.named_parameters() if "regressor" in name)


def test_tuning_blocks_leaves_those_before_the_first_drop_and_the_head_alone():
    """As in the paper's second stage."""
    dense = make_dense()
    finished = slim("life_regression", dense, knobs={"tune": "blocks", "drops": 1, "drop_layer_1": 2})
    tuned = {name for name, p in finished.model.named_parameters() if p.requires_grad}
    assert tuned
    assert {name.split(".")[2] for name in tuned} == {"2", "3"}
    assert all(name.startswith("blocks.stages") for name in tuned)


@pytest.mark.parametrize(("own", "tuned"), [({}, {"0", "2", "3"}), ({"tune_pruned": False}, {"2", "3"}), (None, {"2", "3"})])
def test_blocks_that_an_earlier_step_has_pruned_are_tuned_unless_the_recipe_says_no_or_is_older(
    own: Knobs | None, tuned: set[str]
):
    """Of four blocks the first is narrower, and the drop is in front of the third; a recipe that does not know the knob is older."""
    dense = make_dense()
    knobs = METHOD.repair(dense.shape, {"drops": 1, "drop_layer_1": 2, **(own or {})})
    if own is None:
        knobs.pop("tune_pruned")
    start = Plan.dense(dense.shape)
    narrow = start.replace(blocks=(start.blocks[0].replace(hidden=start.blocks[0].hidden // 2), *start.blocks[1:]))
    model = METHODS["width"].build(copy.deepcopy(dense.module), dense.shape, narrow, {})
    context = dataclasses.replace(context_of(dense.shape, knobs), plan=narrow)
    with torch.no_grad():
        finished = METHOD.prune(METHOD.attach(model, context, images()), context)
    names = [name for name, p in finished.model.named_parameters() if p.requires_grad]
    assert {name.split(".")[2] for name in names} == tuned
    assert all(name.startswith("blocks.stages") for name in names)


@pytest.mark.parametrize("end", ["low", "high"])
def test_gradients_are_finite_at_both_ends_of_the_temperature(end: str):
    """At 16 and twelve blocks a weight of the soft form underflows; its logarithm must not."""
    dense = make_dense("deit", depth=12)
    knobs = {"drops": 1, "drop_layer_1": 1, "life_threshold_1": 0.5, "temperature": getattr(METHOD.ranges["temperature"], end)}
    student = attached("life_regression", dense, METHOD.repair(dense.shape, knobs))
    functional.cross_entropy(logits_of(student(images(4))), torch.arange(4)).backward()
    gradient = student.blocks.regressor.weight.grad
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


def test_a_spare_patch_lives_until_the_block_that_is_named():
    shape = make_dense("vit", depth=6).shape
    knobs = METHOD.repair(shape, {"drops": 1, "drop_layer_1": 2, "life_threshold_1": 0.5, "spare_until": 4})
    assert schedule(shape, knobs) == ([2, 4], [33, 32])
    assert [b.tokens_kv for b in METHOD.expect(shape, Plan.dense(shape), knobs).blocks] == [65, 65, 34, 34, 33, 33]


def test_drops_that_drop_nothing_are_left_out():
    shape = make_dense("vit", depth=6).shape
    knobs = {"drops": 3, "drop_layer_1": 1, "drop_layer_2": 3, "drop_layer_3": 5}
    knobs |= {"life_threshold_1": 0.3, "life_threshold_2": 0.302, "life_threshold_3": 0.6}
    repaired = METHOD.repair(shape, knobs)
    assert (repaired["drops"], repaired["drop_layer_1"], repaired["drop_layer_2"]) == (2, 1, 5)
    expected = METHOD.expect(shape, Plan.dense(shape), repaired)
    assert [b.tokens_kv for b in expected.blocks] == [65, 46, 46, 46, 46, 27]


def test_two_drops_on_one_block_are_the_harder_one():
    shape = make_dense("vit", depth=6).shape
    knobs = {"drops": 2, "drop_layer_1": 3, "drop_layer_2": 3, "life_threshold_1": 0.6, "life_threshold_2": 0.25}
    repaired = METHOD.repair(shape, knobs)
    assert repaired["drops"] == 1
    assert METHOD.expect(shape, Plan.dense(shape), repaired).blocks[-1].tokens_kv == 27


def test_the_order_of_drops_does_not_matter():
    shape = make_dense("vit", depth=6).shape
    one = {"drops": 2, "drop_layer_1": 4, "drop_layer_2": 2, "life_threshold_1": 0.6, "life_threshold_2": 0.3}
    other = {"drops": 2, "drop_layer_1": 2, "drop_layer_2": 4, "life_threshold_1": 0.3, "life_threshold_2": 0.6}
    assert METHOD.repair(shape, one) == METHOD.repair(shape, other)


def test_soft_form_takes_every_patch_along():
    dense = make_dense()
    student = attached("life_regression", dense, solved_knobs("life_regression", dense.shape)).eval()
    with torch.no_grad():
        assert student.forward_features(images()).shape[1] == dense.shape.tokens
    assert copy.deepcopy(student).blocks.first == student.blocks.first


# On real images: what the regressor has learned, on a ViT that was trained on CIFAR-10.


SHARE = 0.35
"""Of the FLOPs. This ViT was trained with patches dropped at random: at half of them it hardly matters which patches go."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learned:
    """The soft form of a model whose regressor was trained for three epochs, its knobs, and test images it has not seen."""

    student: nn.Module
    shape: ViTShape
    knobs: Knobs
    images_B3HW: Tensor
    labels_B: Tensor


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    folder = os.environ.get("AUTOSLIM_DATA")
    if not folder:
        pytest.skip("AUTOSLIM_DATA does not name a folder with cifar10 and vit-cifar10")
    root = tmp_path_factory.mktemp("learned")
    dataset = prepare_dataset(DatasetSpec(source=str(Path(folder, "cifar10")), train_limit=4000), root, seed=0)
    context = TrialContext.open(base=Path(folder, "vit-cifar10"), dataset=dataset.path, device=torch.device("cpu"))
    shape, training = context.dense.shape, TrainingSettings(epochs=3.0, precision="float32")
    knobs = solved_knobs("life_regression", shape, SHARE, EARLIER)
    student = METHOD.attach(context.student(), context_of(shape, knobs, SHARE), context.calibration(training, seed=0))
    shared_trainer = TrialSharedTrainer(context, training, seed=0, checkpoint=root / "checkpoint")
    rates = METHOD.learning_rates(student, knobs)
    for _ in shared_trainer.train(student, lambda batch: METHOD.loss(knobs, batch), epochs=3.0, learning_rates=rates):
        pass
    batches = context.loader(context.splits.test, training, seed=0, train=False).epoch(0)
    images_B3HW, labels_B = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return Learned(student=student.eval(), shape=shape, knobs=knobs, images_B3HW=images_B3HW, labels_B=labels_B)


@torch.no_grad()
def leaving_one_out(learned: Learned, image_3HW: Tensor, label: Tensor) -> Tensor:
    """By how much the dense model's loss rises when a patch is gone from the first drop on: (P,)."""
    model, blocks, first = learned.student, learned.student.blocks.blocks, learned.student.blocks.first
    x_1ND = model.norm_pre(model._pos_embed(model.patch_embed(image_3HW[None])))
    for block in blocks[:first]:
        x_1ND = block(x_1ND)

    def loss(x_BND: Tensor) -> Tensor:
        for block in blocks[first:]:
            x_BND = block(x_BND)
        logits_BC = model.forward_head(model.norm(x_BND))
        return functional.cross_entropy(logits_BC, label.expand(len(logits_BC)), reduction="none")

    tokens, prefix = learned.shape.tokens, learned.shape.prefix_tokens
    others_PK = torch.stack([torch.tensor([k for k in range(tokens) if k != patch]) for patch in range(prefix, tokens)])
    return loss(x_1ND[0][others_PK]) - loss(x_1ND)


def spearman(one_P: Tensor, other_P: Tensor) -> float:
    ranks = torch.stack([one_P.argsort().argsort(), other_P.argsort().argsort()]).double()
    return float(torch.corrcoef(ranks)[0, 1])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_lives_rank_patches_as_leaving_one_out_does_better_than_chance(learned: Learned, capsys: pytest.CaptureFixture[str]):
    count = 400
    lives_BP = patch_lives(learned.student, learned.images_B3HW[:count])
    pairs = zip(lives_BP, learned.images_B3HW[:count], learned.labels_B[:count], strict=True)
    found = [spearman(lives_P, leaving_one_out(learned, image_3HW, label)) for lives_P, image_3HW, label in pairs]
    mean, error = statistics.fmean(found), statistics.stdev(found) / count**0.5
    with capsys.disabled():
        print(f"\nlives against the loss of leaving one patch out: Spearman {mean:.3f} +- {error:.3f} over {count} images")
    assert mean > 3 * error


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_shuffled_lives_cost_accuracy_straight_after_the_cut(learned: Learned, capsys: pytest.CaptureFixture[str]):
    cut = METHOD.prune(copy.deepcopy(learned.student), context_of(learned.shape, learned.knobs, SHARE)).model.eval()

    def right_B() -> Tensor:
        chunks = zip(learned.images_B3HW.split(256), learned.labels_B.split(256), strict=True)
        return torch.cat([(logits(cut, images_B3HW).argmax(dim=1) == labels_B).double() for images_B3HW, labels_B in chunks])

    generator = torch.Generator().manual_seed(0)

    def shuffle(regressor: nn.Module, inputs: tuple[Tensor], logit_BP: Tensor) -> Tensor:
        return logit_BP.gather(1, torch.rand(logit_BP.shape, generator=generator).argsort(dim=1))

    own_B = right_B()
    regressor = next(part for part in cut.modules() if isinstance(part, LifeRegressor))
    regressor.register_forward_hook(shuffle)
    shuffled_B = torch.stack([right_B() for _ in range(10)]).mean(dim=0)
    lost, error = (own_B - shuffled_B).mean(), (own_B - shuffled_B).std() / len(own_B) ** 0.5
    with capsys.disabled():
        print(f"\naccuracy straight after pruning: {own_B.mean():.1%}, with shuffled lives {lost:.1%} +- {error:.1%} lower")
    assert lost > 2 * error
