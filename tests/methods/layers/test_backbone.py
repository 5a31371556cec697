"""A slimmed model as a backbone: the places of its tokens, the grid restored from them, and feature maps per block."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from helpers.merged_tokens import each_images, merged
from helpers.tiny import KINDS, SIZES_OF, attach, images, logits, make_dense, slim, solved_knobs
from torch import Tensor, nn

from autoslim.errors import UnsupportedModelError
from autoslim.methods.layers.adaptive_trunk import AdaptiveTrunk, dynamic_shapes, static_shapes
from autoslim.methods.layers.backbone import as_backbone, features, forward_intermediates, install
from autoslim.methods.layers.merging import MergeInto, install_merging
from autoslim.methods.layers.rectangular_block import class_query_last, install_rectangular
from autoslim.methods.layers.token_origins import restore_tokens
from autoslim.methods.layers.token_selector import FixedTokens, TokenSelector
from autoslim.methods.layers.token_trunk import Trunk, blocks_of
from autoslim.methods.layers.tokens import behind_prefix

KEPT = torch.tensor([0, 2, 3, 7, 8, 14])
"""Of a class token and 4 x 4 patches: the class token and patches 1, 2, 6, 7, 13."""

NEAREST = [1, 1, 2, 2, 1, 1, 6, 7, 13, 13, 6, 7, 13, 13, 13, 7]
"""Filled by hand: the nearest of these patches to each of the 16, in the grid's rows; ties to the first in reading order."""


def compared(left: Any, right: Any) -> None:
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in SIZES_OF])
def test_a_model_that_keeps_all_tokens_has_timms_features(kind: str):
    model, x = make_dense(kind).module, images()
    timms = type(model)
    arguments = [{}, {"indices": 2, "norm": True}, {"indices": [0, 2], "stop_early": True, "output_fmt": "NLC"}]
    with torch.no_grad():
        compared(features(model, x).tokens, timms.forward_features(model, x))
        compared(features(model, x).pooled, timms.forward_head(model, timms.forward_features(model, x), pre_logits=True))
        for own, prefix, alone in itertools.product(arguments, (False, True), (False, True)):
            if prefix and not model.num_prefix_tokens:
                continue
            given = {**own, "return_prefix_tokens": prefix, "intermediates_only": alone}
            compared(forward_intermediates(model, x, **given), timms.forward_intermediates(model, x, **given))


@pytest.mark.parametrize("kind", SIZES_OF)
def test_stages_with_grids_of_their_own_have_no_features_with_places(kind: str):
    model = as_backbone(make_dense(kind).module)
    for call in (
        model.forward_intermediates,
        lambda x: features(model, x),
        lambda x: model.forward_features(x, return_places=True),
    ):
        with pytest.raises(UnsupportedModelError, match="stages have grids of their own; allowed: `forward_features`"):
            call(images())
    assert model.forward_features(images(2)).shape == (2, 4, 4, 96)


def test_intermediates_come_as_timms_dictionary_and_under_dinos_name():
    model, x = make_dense("registers").module, images()
    timms = type(model)
    with torch.no_grad():
        expected = timms.forward_intermediates(model, x, output_dict=True, return_prefix_tokens=True)
        compared(forward_intermediates(model, x, output_dict=True, return_prefix_tokens=True), expected)
        expected = timms.get_intermediate_layers(model, x, 2, reshape=True, norm=True)
        compared(as_backbone(copy.deepcopy(model)).get_intermediate_layers(x, 2, reshape=True, norm=True), expected)


def dropping(kind: str = "deit", *, inside: bool = False) -> nn.Module:
    dense = make_dense(kind)
    blocks = blocks_of(dense.module)
    if inside:
        return install_rectangular(dense.module, blocks, {1: FixedTokens(KEPT)})
    return install(dense.module, Trunk(blocks, {1: FixedTokens(KEPT)}))


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("kind", ["deit", "rotary positions and norms inside"])
def test_a_dropped_token_is_filled_from_the_nearest_that_is_left(kind: str, inside: bool):
    model, x = dropping(kind, inside=inside), images()
    with torch.no_grad():
        left, whole = features(model, x), features(model, x, restore_tokens=True)
    assert torch.equal(left.places, KEPT.expand(3, -1))
    assert torch.equal(whole.places, torch.arange(17).expand(3, -1))
    rows = {int(place): row for row, place in enumerate(KEPT)}
    source = torch.tensor([0] + [rows[patch + 1] for patch in NEAREST])
    compared(whole.tokens, left.tokens[:, source])


def test_feature_maps_in_front_of_a_drop_are_the_dense_models():
    model, x = dropping(), images()
    dense = make_dense().module
    with torch.no_grad():
        maps = model.forward_intermediates(x, intermediates_only=True)
        expected = dense.forward_intermediates(x, intermediates_only=True)
    compared(maps[0], expected[0])
    assert not torch.allclose(maps[1], expected[1], atol=1e-2)
    # The map of block 1 in its rows and columns: what fills patch 0 is patch 1.
    assert torch.equal(maps[1][:, :, 0, 0], maps[1][:, :, 0, 1])


def test_a_merged_token_is_filled_from_the_one_that_it_has_joined():
    dense = make_dense()
    model = install_merging(dense.module, dense.shape, blocks_of(dense.module), {2: FixedTokens(KEPT)}, inside=False)
    entered: list[Any] = []
    step = next(part for part in model.modules() if isinstance(part, MergeInto))
    step.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    with torch.no_grad():
        left, whole = features(model, images()), features(model, images(), restore_tokens=True)
    assert torch.equal(left.places, KEPT.expand(3, -1))
    for image in range(3):
        x_ND = entered[0].x_BND[image]
        rows_K = each_images(step.selector.rows(x_ND[None]), 1)[0]
        for token in range(17):
            source = int((rows_K == token).nonzero()) if token in rows_K else joined(x_ND, token, rows_K)
            compared(whole.tokens[image, token], left.tokens[image, source])


def joined(x_ND: Tensor, token: int, rows_K: Tensor) -> int:
    """The row of the token that `token` joins: the one whose size the reference's merging raises, if it alone were there to go."""
    alone = [*rows_K.tolist(), token]
    _, sizes_K = merged(x_ND[alone], torch.ones(len(alone)), torch.arange(len(rows_K)), 1)
    return int(sizes_K.argmax())


@pytest.mark.parametrize("pool", ["average", "average without class token"])
def test_where_a_mean_weights_merged_patches_their_tokens_are_not_weighted(pool: str):
    dense = make_dense(pool, fc_norm=False)
    kept = torch.arange(9)
    model = install_merging(dense.module, dense.shape, blocks_of(dense.module), {1: FixedTokens(kept)}, inside=True)
    x = images()
    with torch.no_grad():
        found, expected = features(model, x), logits(model, x)
        compared(model.head(found.pooled), expected)
        # What timm's method has are the tokens in the weights of the mean; these are as the norm leaves them.
        assert not torch.allclose(found.tokens, model.forward_features(x))
        norm = model.blocks.end.norm
        plain_BKD = (found.tokens - norm.bias) / norm.weight
        compared(plain_BKD.var(dim=-1, correction=0), torch.ones(plain_BKD.shape[:2]))


def test_mixed_tokens_fill_by_their_shares():
    x_BKD = torch.tensor([[[9.0], [1.0], [5.0]]])
    # Two made tokens of four patches, behind a class token: of the last patch nothing is left.
    origin_BKT = torch.tensor([[[1.0, 0, 0, 0, 0], [0, 0.5, 0.25, 0.25, 0], [0, 0, 0.75, 0.25, 0]]])
    whole_BTD = restore_tokens(x_BKD, origin_BKT, grid=(2, 2), num_prefix_tokens=1)
    assert whole_BTD[0, :, 0].tolist() == pytest.approx([9, 1, 0.25 * 1 + 0.75 * 5, 3, 0.25 * 1 + 0.75 * 5])


def test_what_sit_has_mixed_is_restored_from_its_made_tokens():
    dense = make_dense()
    model = slim("sit", dense, knobs={"start": "fitted"}).model
    with torch.no_grad():
        left, whole = features(model, images()), features(model, images(), restore_tokens=True)
    made = left.tokens.shape[1] - 1
    assert 1 <= made < 16
    # Each patch is a mean of made tokens, in front of the norm; weights that differ from patch to patch.
    assert len(whole.tokens[0, 1:].unique(dim=0)) > made


@pytest.fixture
def adaptive() -> nn.Module:
    dense = make_dense()
    model = slim("dps", dense, share=0.8, knobs={"adaptive": True, "class_query": False}).model
    assert isinstance(model.blocks, AdaptiveTrunk)
    for _, drop in model.blocks.drops():
        drop.threshold.fill_(0.0)
    return model


def test_images_with_counts_of_their_own_are_restored_as_each_alone(adaptive: nn.Module):
    x = images(6)
    with torch.no_grad():
        together = features(adaptive, x)
        whole = features(adaptive, x, restore_tokens=True).tokens
        own = [features(adaptive, image[None], restore_tokens=True).tokens for image in x]
        counts = [features(adaptive, image[None]).tokens.shape[1] for image in x]
        with static_shapes(adaptive):
            static = features(adaptive, x, restore_tokens=True).tokens
    assert len(set(counts)) > 1
    assert (together.places >= 0).sum(dim=1).tolist() == counts
    compared(whole, torch.cat(own))
    compared(static, whole)
    with dynamic_shapes(adaptive), torch.no_grad():
        compared(features(adaptive, x, restore_tokens=True).tokens, whole)


@pytest.mark.parametrize("method", ["merge", "life_regression"])
def test_behind_a_class_query_no_patch_can_be_restored(method: str):
    dense = make_dense()
    model = class_query_last(slim(method, dense).model, 1)
    x = images()
    with torch.no_grad():
        assert torch.equal(features(model, x).places, torch.zeros(3, 1, dtype=torch.long))
        with pytest.raises(UnsupportedModelError, match="no patch to restore the others from; read an earlier block"):
            model.forward_features(x, restore_tokens=True)
        with pytest.raises(UnsupportedModelError, match="no patch to restore"):
            model.forward_intermediates(x)
        final, maps = model.forward_intermediates(x, indices=[0, 1, 2])
        compared(final, model.forward_features(x))
    assert [tuple(one.shape) for one in maps] == [(3, 48, 4, 4)] * 3


def test_forward_features_restores_and_says_places_on_request():
    model, x = dropping(), images()
    with torch.no_grad():
        found = features(model, x)
        tokens, places = model.forward_features(x, return_places=True)
        compared(model.forward_features(x), found.tokens)
        compared(tokens, found.tokens)
        assert torch.equal(places, found.places)
        whole, every = model.forward_features(x, restore_tokens=True, return_places=True)
        compared(whole, model.forward_features(x, restore_tokens=True))
        assert torch.equal(every, torch.arange(17).expand(3, -1))
    with pytest.raises(UnsupportedModelError, match="no attention mask"):
        model.forward_features(x, attn_mask=torch.zeros(17, 17), restore_tokens=True)


def test_a_copy_answers_for_itself():
    model, x = dropping(), images()
    other = copy.deepcopy(model)
    with torch.no_grad():
        before = model.forward_features(x, restore_tokens=True)
        other.norm.weight.zero_()
        assert torch.equal(model.forward_features(x, restore_tokens=True), before)
        assert not torch.equal(other.forward_features(x, restore_tokens=True), before)


def test_gradients_pass_through_restored_tokens():
    model = dropping()
    features(model, images(), restore_tokens=True).tokens.square().mean().backward()
    grads = [block.mlp.fc1.weight.grad for block in blocks_of(model)]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads)


def test_a_form_for_training_alone_is_refused():
    dense = make_dense()
    student = attach("life_regression", dense, solved_knobs("life_regression", dense.shape))
    with pytest.raises(UnsupportedModelError, match="form for training alone"):
        features(student, images())
    with pytest.raises(ValueError, match="output_fmt is 'NHWC'; allowed: NCHW, NLC"):
        forward_intermediates(dense.module, images(), output_fmt="NHWC")


class DrawnTokens(TokenSelector):
    """Other tokens at every call."""

    def rows(self, x_BND: Tensor) -> Tensor:
        drawn_BP = torch.rand(x_BND.shape[0], x_BND.shape[1] - 1).argsort(dim=1)[:, :5]
        return behind_prefix(drawn_BP, num_prefix_tokens=1)


def test_the_places_of_tokens_that_are_drawn_at_random_are_theirs():
    dense = make_dense().module
    blocks = blocks_of(dense)
    # Nothing behind the drop moves a token, so that each can be recognised.
    last = len(blocks) - 1
    for part in (blocks[last].attn.proj, blocks[last].mlp.fc2):
        nn.init.zeros_(part.weight)
        nn.init.zeros_(part.bias)
    model, x = install(copy.deepcopy(dense), Trunk(blocks, {last: DrawnTokens()})), images()
    with torch.no_grad():
        found, every = features(model, x), features(dense, x).tokens
    expected = torch.stack([tokens[places] for tokens, places in zip(every, found.places, strict=True)])
    compared(found.tokens, expected)
