"""The paper's own claims (arXiv 2304.04926), and where ours is different on purpose."""

from __future__ import annotations

import copy
import statistics

import pytest
import timm
import torch
from tiny import attached, finish, images, logits_of, make_dense, slim, solved_knobs
from torch import Tensor
from torch.nn import functional

from autoslim.methods import METHODS
from autoslim.methods.life_regression import KeepLongestLived, LifeRegressor, life_moments, schedule
from autoslim.methods.pick import First, take
from autoslim.methods.tokens import behind_prefix, key_mask, order_by, standardise
from autoslim.methods.trunk import steps_of
from autoslim.plan import Plan
from autoslim.vit import read_shape

METHOD = METHODS["life_regression"]

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
    knobs = solved_knobs("life_regression", dense.shape) | {"temperature": temperature}
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


def test_tokens_are_sorted_once_and_then_sliced():
    knobs = {"drops": 3, "drop_layer_1": 1, "drop_layer_2": 2, "drop_layer_3": 3}
    knobs |= {"life_threshold_1": 0.2, "life_threshold_2": 0.5, "life_threshold_3": 0.8}
    finished = slim("life_regression", make_dense("vit"), share=0.7, knobs=knobs)
    steps = steps_of(finished.model)
    assert list(steps) == [1, 2, 3]
    assert [type(step) for step in steps.values()] == [KeepLongestLived, First, First]
    x_BND = torch.randn(2, 65, 48)
    for step, block in zip(steps.values(), finished.plan.blocks[1:], strict=True):
        kept_BND = step(x_BND)
        if isinstance(step, First):
            assert kept_BND.data_ptr() == x_BND.data_ptr(), "a slice is a view"
        assert kept_BND.shape[1] == block.tokens_kv
        assert torch.equal(kept_BND[:, 0], x_BND[:, 0])
        x_BND = kept_BND


def test_the_longest_lived_patches_are_kept_in_falling_order():
    regressor = LifeRegressor(6, 1)
    x_BND = torch.randn(3, 9, 6)
    kept_BND = KeepLongestLived(regressor, 4)(x_BND)
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
    kept = take(x_BND, behind_prefix(torch.tensor([[2, 0], [1, 2]]), num_prefix_tokens=2))
    assert kept[..., 0].tolist() == [[0, 1, 4, 2], [5, 6, 8, 9]]


def test_only_the_regressor_learns_before_the_cut_and_never_after():
    dense = make_dense()
    knobs = solved_knobs("life_regression", dense.shape)
    student = attached("life_regression", dense, knobs)
    assert [name for name, p in student.named_parameters() if p.requires_grad] == ["blocks.regressor.weight"]
    finished = finish("life_regression", student, dense.shape, knobs)
    assert not any(p.requires_grad for name, p in finished.model.named_parameters() if "regressor" in name)


def test_tuning_blocks_leaves_those_before_the_first_drop_and_the_head_alone():
    """As in the paper's second stage."""
    dense = make_dense()
    finished = slim("life_regression", dense, knobs={"tune": "blocks", "drops": 1, "drop_layer_1": 2})
    tuned = {name for name, p in finished.model.named_parameters() if p.requires_grad}
    assert tuned
    assert {name.split(".")[2] for name in tuned} == {"2", "3"}
    assert all(name.startswith("blocks.stages") for name in tuned)


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
