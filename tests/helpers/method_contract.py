"""What every slimming method promises: functions that assert a promise of a method, or of a method on a kind of model (`KINDS`).

`tests/methods/test_contract.py` holds the registry to them, and `tests/methods/largest_norm` the method that the documents show.
"""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable

import pytest
import torch
from helpers.tiny import (
    attach,
    attached,
    images,
    logits,
    loss_of,
    make_dense,
    method_of,
    method_tests,
    prune,
    share_of_dense,
    slim,
    slimmed,
    solved_knobs,
    train,
    variant_knobs,
)
from torch import Tensor, nn

from autoslim.core.plan import Plan
from autoslim.cost import COUNTERS_AGREE_WITHIN, count_flops, count_flops_torch, predict, predict_params
from autoslim.errors import UnsupportedModelError
from autoslim.methods.base import logits_of
from autoslim.methods.layers.adaptive_trunk import static_shapes
from autoslim.methods.layers.backbone import features
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.methods.life_regression.regressor import SoftLifeTrunk
from autoslim.models import DenseModel


def keeping_everything_leaves_the_logits_as_they_were(method: str, model: str) -> None:
    dense = make_dense(model)
    knobs = method_of(method).repair(dense.shape, {**variant_knobs(method), **method_tests(method.partition(":")[0]).KEEP_ALL})
    student = attach(method, dense, knobs, share=2.0)
    extras = method_of(method).expect(dense.shape, Plan.dense(dense.shape), knobs).extras
    share = 1 + sum(e.matmuls + e.norms for e in extras) / predict(dense.shape, Plan.dense(dense.shape)).total + 1e-9
    finished = prune(method, student, dense.shape, knobs, share)
    assert finished.plan.blocks == Plan.dense(dense.shape).blocks
    torch.testing.assert_close(logits(finished.model, images()), logits(dense.module, images()), rtol=1e-5, atol=1e-5)


def prefix_tokens_survive_pruning_in_their_places(method: str, model: str) -> None:
    dense, finished = slimmed(method, model)
    prefix, seen = dense.shape.prefix_tokens, []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # A block that drops inside takes and gives the counts along with the tokens.
        entered, left = (getattr(side, "x_BND", side) for side in (inputs[0], output))
        seen.append((entered[:, :prefix], left[:, :prefix]))

    hooks = [block.register_forward_hook(note) for block in blocks_of(finished.model)]
    logits(finished.model, images())
    for hook in hooks:
        hook.remove()
    for (_, left), (entered, _) in itertools.pairwise(seen):
        assert entered.shape[1] == prefix
        assert torch.equal(left, entered)


def flops_measured_are_those_predicted_and_within_the_budget(method: str, model: str) -> None:
    dense, finished = slimmed(method, model)
    predicted = predict(dense.shape, finished.plan)
    assert count_flops(finished.model, 32) == predicted.total <= share_of_dense(dense.shape, 0.6)
    matmuls = predicted.matmuls + sum(extra.matmuls for extra in finished.plan.extras)
    with static_shapes(finished.model):
        assert abs(count_flops_torch(finished.model, 32) - matmuls) <= COUNTERS_AGREE_WITHIN * matmuls
    finished.plan.check(dense.shape)


def parameters_are_those_of_the_plan(method: str, model: str) -> None:
    dense, finished = slimmed(method, model)
    assert predict_params(dense.shape, Plan.dense(dense.shape)) == sum(p.numel() for p in dense.module.parameters())
    assert predict_params(dense.shape, finished.plan) == sum(p.numel() for p in finished.model.parameters())


def priced_modules_are_those_of_the_plan(method: str, model: str) -> None:
    """What the latency table measures has the FLOPs and the parameters that the plan prices."""
    dense, pruned = slimmed(method, model)
    shape, tokens = dense.shape, dense.shape.tokens
    for index, block in enumerate(pruned.plan.blocks):
        # A block may have several, such as a choice and the merging of what it leaves out.
        for extra in (extra for extra in pruned.plan.extras if extra.place == f"block {index}"):
            left = min(block.tokens_kv, block.tokens_q)
            module = method_of(method).priced_modules()[extra.name](shape, tokens, left)
            x_1ND = torch.randn(1, tokens, shape.dim)
            assert count_flops(module, 32, x_1ND) == extra.matmuls + extra.norms
            assert sum(p.numel() for p in module.parameters()) == extra.params
        tokens = block.tokens_mlp


def training_form_and_pruned_form_agree(method: str, model: str) -> None:
    name, _, variant = method.partition(":")
    method_tests(name).check_training_form_is_pruned_form(model, *([variant] if variant else []))


def gradients_reach_every_trainable_part(method: str, model: str) -> None:
    dense = make_dense(model)
    knobs = solved_knobs(method, dense.shape)
    student = attach(method, dense, knobs)
    _assert_all_learn(method, dense, student, knobs)
    finished = prune(method, student, dense.shape, knobs)
    # In double precision: a softmax that is certain has a gradient that single precision rounds to nothing.
    logits_of(finished.model.double().train()(images(4, dtype=torch.float64))).square().sum().backward()
    _assert_gradients(finished.model)


def _assert_all_learn(method: str, dense: DenseModel, student: nn.Module, knobs: dict) -> None:
    if not any(p.requires_grad for p in student.parameters()):
        return
    student.train()
    loss_of(method, dense, student, knobs).backward()
    _assert_gradients(student)
    student.zero_grad()


def _assert_gradients(model: nn.Module) -> None:
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert [name for name, grad in trained.items() if grad is None or not grad.abs().sum() > 0] == []
    assert all(torch.isfinite(grad).all() for grad in trained.values())


def no_part_that_only_training_needs_is_left(method: str, model: str) -> None:
    dense, finished = slimmed(method, model)
    assert not isinstance(finished.model.blocks, SoftLifeTrunk)
    assert [type(m).__name__ for m in finished.model.modules() if "Gate" in type(m).__name__ or "Soft" in type(m).__name__] == []
    assert [name for name in finished.model.state_dict() if "zeta" in name] == []
    fresh = method_of(method).build(copy.deepcopy(dense.module), dense.shape, finished.plan, finished.knobs)
    assert fresh.state_dict().keys() == finished.model.state_dict().keys()


def same_seed_gives_the_same_model(method: str, model: str) -> None:
    one, other = (slim(method, make_dense(model), steps=2) for _ in range(2))
    assert one.plan == other.plan
    assert one.knobs == other.knobs
    left, right = one.model.state_dict(), other.model.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def pickles_and_copies(method: str, model: str) -> None:
    finished = slimmed(method, model)[1]
    expected = logits(finished.model, images())
    assert torch.equal(logits(pickle.loads(pickle.dumps(finished.model)), images()), expected)
    assert torch.equal(logits(copy.deepcopy(finished.model), images()), expected)


def attention_masks_are_refused(method: str, model: str) -> None:
    dense, finished = slimmed(method, model)
    mask = torch.zeros(dense.shape.tokens, dense.shape.tokens)
    with torch.no_grad():
        for call in (
            finished.model.forward_features,
            finished.model.forward_intermediates,
            finished.model.get_intermediate_layers,
        ):
            with pytest.raises(UnsupportedModelError, match="no attention mask"):
                call(images(), attn_mask=mask)


def tokens_have_places_and_are_restored(method: str, model: str) -> None:
    dense, finished = slimmed(method, model)
    prefix, x = dense.shape.prefix_tokens, images()
    if dense.shape.windowed:
        for call in (finished.model.forward_intermediates, lambda x: features(finished.model, x)):
            with pytest.raises(UnsupportedModelError, match="stages have grids of their own"):
                call(x)
        return
    with torch.no_grad():
        found = features(finished.model, x)
        maps = finished.model.forward_intermediates(x, indices=range(dense.shape.depth - 1), intermediates_only=True)
    assert found.tokens.shape[1] <= finished.plan.tokens_out
    assert found.pooled.shape == (3, dense.module.forward_head(found.tokens, pre_logits=True).shape[1])
    assert torch.equal(found.places[:, :prefix], torch.arange(prefix).expand(3, -1))
    assert [tuple(one.shape) for one in maps] == [(3, dense.shape.dim, *dense.shape.grid)] * (dense.shape.depth - 1)
    if found.tokens.shape[1] == prefix:
        with pytest.raises(UnsupportedModelError, match="no patch to restore the others from"):
            features(finished.model, x, restore_tokens=True)
        return
    with torch.no_grad():
        restored = features(finished.model, x, restore_tokens=True)
    assert torch.equal(restored.pooled, found.pooled)
    assert torch.equal(restored.places, torch.arange(dense.shape.tokens).expand(3, -1))
    assert restored.tokens.shape == (3, dense.shape.tokens, dense.shape.dim)
    if method.startswith("sit"):
        return
    for tokens_KD, place_K, restored_TD in zip(found.tokens, found.places, restored.tokens, strict=True):
        own = place_K >= 0
        assert len(place_K[own].unique()) == int(own.sum())
        torch.testing.assert_close(restored_TD[place_K[own]], tokens_KD[own], rtol=1e-5, atol=1e-6)


def dynamic_batch() -> dict[int, object]:
    return {0: torch.export.Dim("batch", min=1, max=64)}


def exports_with_a_dynamic_batch(method: str, model: str) -> None:
    finished = slimmed(method, model)[1]
    program = torch.export.export(finished.model, (images(3),), dynamic_shapes=(dynamic_batch(),))
    for batch in (1, 5):
        x = images(batch)
        torch.testing.assert_close(program.module()(x), logits(finished.model, x), rtol=1e-4, atol=1e-4)


def two_models_in_one_process_do_not_disturb_each_other(method: str) -> None:
    dense = make_dense()
    first = slim(method, dense, share=0.7).model
    before, dense_before = logits(first, images()), logits(dense.module, images())
    second = slim(method, dense, share=0.45, steps=1).model
    alone = logits(copy.deepcopy(second), images())
    assert torch.equal(logits(first, images()), before)
    assert torch.equal(logits(second, images()), alone)
    assert torch.equal(logits(dense.module, images()), dense_before)
    assert not torch.equal(before, alone)


def training_form_pickles_and_copies(method: str) -> None:
    dense = make_dense()
    student = attached(method, dense, solved_knobs(method, dense.shape)).eval()
    expected = logits(student, images())
    assert torch.equal(logits(pickle.loads(pickle.dumps(student)), images()), expected)
    assert torch.equal(logits(copy.deepcopy(student), images()), expected)


def training_moves_what_it_says_and_nothing_else(method: str) -> None:
    dense = make_dense()
    # SiT's modules that start at random give all patches to all tokens alike: their scale has next to no gradient in so few steps.
    fitted = {"start": "fitted"} if method == "sit" else None
    knobs = solved_knobs(method, dense.shape, knobs=fitted)
    student = attach(method, dense, knobs)
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    train(method, dense, student, knobs)
    for name, parameter in student.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


OF_A_MODEL: tuple[Callable[[str, str], None], ...] = (
    keeping_everything_leaves_the_logits_as_they_were,
    prefix_tokens_survive_pruning_in_their_places,
    flops_measured_are_those_predicted_and_within_the_budget,
    parameters_are_those_of_the_plan,
    priced_modules_are_those_of_the_plan,
    training_form_and_pruned_form_agree,
    gradients_reach_every_trainable_part,
    no_part_that_only_training_needs_is_left,
    same_seed_gives_the_same_model,
    pickles_and_copies,
    attention_masks_are_refused,
    tokens_have_places_and_are_restored,
)
OF_A_METHOD: tuple[Callable[[str], None], ...] = (
    two_models_in_one_process_do_not_disturb_each_other,
    training_form_pickles_and_copies,
    training_moves_what_it_says_and_nothing_else,
)
