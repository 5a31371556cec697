"""The impact score by its recursion against Eq. 6 summed over all head paths, and the masks that come of it."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers.signs_of_life import counted_marks
from helpers.tiny import images, make_dense
from torch import Tensor

from autoslim.methods.layers.sublayer import drop_attention
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.methods.patch_slimming import impact
from autoslim.methods.patch_slimming.coverage import CoverageOrder
from autoslim.methods.patch_slimming.impact import (
    MAP_BYTES,
    Descent,
    attention_maps,
    batch_of_maps,
    best_mask,
    find_masks,
    images_to_measure,
    inflow,
    order_of,
    propagate_paths,
    read_by_head,
    score,
    tokens_between_blocks,
)


def _random_layers(
    layers: int, heads: int = 2, tokens: int = 4, width: int = 5
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Attention (1, H, N, N), inputs (1, N, D) and masks (1, N) of each layer; the last keeps the class token alone."""
    generator = torch.Generator().manual_seed(layers)
    maps = [torch.rand(1, heads, tokens, tokens, generator=generator, dtype=torch.float64).softmax(-1) for _ in range(layers)]
    inputs = [torch.randn(1, tokens, width, generator=generator, dtype=torch.float64) for _ in range(layers)]
    masks = [torch.tensor([[1.0, 1.0, 0.0, 1.0]], dtype=torch.float64) for _ in range(layers)]
    masks[-1] = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    return maps, inputs, masks


def _by_paths(maps: list[Tensor], inputs: list[Tensor], masks: list[Tensor], block: int, *, residual: bool) -> Tensor:
    """Eq. 6 as it is written: every path picks a head in each block behind `block`, or with `residual` passes it by."""
    heads, tokens = maps[0].shape[1:3]
    found = torch.zeros(tokens, dtype=torch.float64)
    ways = range(-1 if residual else 0, heads)
    for path in itertools.product(ways, repeat=len(maps) - block - 1):
        product, weight = torch.eye(tokens, dtype=torch.float64), 1.0
        for layer, head in zip(range(block + 1, len(maps)), path, strict=True):
            step = torch.eye(tokens, dtype=torch.float64) if head < 0 else maps[layer][0, head]
            weight *= 1.0 if head < 0 else 1 / heads
            product = torch.diag(masks[layer][0]) @ step @ product
        for head in range(heads):
            inflow_ND = maps[block][0, head] @ inputs[block][0].abs()
            for token in range(tokens):
                outer = product[:, token, None] * inflow_ND[token]
                found[token] += weight / heads * outer.square().sum()
    return found


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("residual", [False, True])
def test_recursion_is_the_sum_over_all_head_paths(layers: int, residual: bool):
    maps, inputs, masks = _random_layers(layers)
    paths_BNN = torch.eye(4, dtype=torch.float64)[None]
    if layers == 1:
        paths_BNN = torch.diag_embed(masks[-1])
    for block in reversed(range(layers)):
        expected = _by_paths(maps, inputs, masks, block, residual=residual)
        if layers == 1:
            expected = expected * masks[-1][0]
        torch.testing.assert_close(score(maps[block], inputs[block], paths_BNN)[0], expected, rtol=1e-12, atol=1e-14)
        paths_BNN = propagate_paths(paths_BNN, maps[block], masks[block], residual=residual)


@pytest.mark.parametrize("model", ["vit", "distilled"])
def test_attention_maps_are_those_of_the_blocks(model: str):
    dense = make_dense(model)
    x_BND = torch.randn(2, dense.shape.tokens, 48)
    attention = blocks_of(dense.module)[0].attn
    maps_BHNN = attention_maps(attention, x_BND)
    v_BHNK = attention.qkv(x_BND).reshape(2, dense.shape.tokens, 3, 3, 16).permute(2, 0, 3, 1, 4)[2]
    mixed_BND = (maps_BHNN @ v_BHNK).transpose(1, 2).reshape(2, dense.shape.tokens, 48)
    torch.testing.assert_close(attention.proj(mixed_BND), attention(x_BND), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(maps_BHNN.sum(-1), torch.ones(2, 3, dense.shape.tokens))


@pytest.mark.parametrize(
    ("model", "reads"),
    [
        ("vit", [0]),
        ("distilled", [0, 1]),
        ("registers", [0]),
        ("average", range(1, 17)),
        ("average without class token", range(16)),
    ],
)
def test_the_chain_starts_from_what_the_head_reads(model: str, reads: list[int]):
    read_N = read_by_head(make_dense(model).shape, torch.empty(0, dtype=torch.float64))
    assert read_N.dtype == torch.float64
    assert read_N.nonzero()[:, 0].tolist() == list(reads)


def test_each_pass_over_the_measured_images_is_a_sign_of_life(monkeypatch):
    marks = counted_marks(monkeypatch)
    tokens_between_blocks(make_dense().module, images(2 * impact._BATCH))
    assert len(marks) == 2


def test_tokens_between_blocks_are_the_models_own():
    dense = make_dense()
    tokens = tokens_between_blocks(dense.module, images(40))
    assert len(tokens) == dense.shape.depth + 1
    with torch.no_grad():
        for block, before, after in zip(blocks_of(dense.module), tokens, tokens[1:], strict=False):
            torch.testing.assert_close(block(before), after, rtol=1e-4, atol=1e-5)
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in blocks_of(dense.module))


@pytest.mark.parametrize("model", ["vit", "distilled", "registers", "average", "average without class token"])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("paths", "places"), [("paper", "score"), ("residual", "score"), ("residual", "cover")])
def test_masks_are_nested_and_hold_what_they_should(model: str, own: bool, paths: str, places: str):
    dense = make_dense(model)
    patches = dense.shape.patches
    counts = [patches - 2, patches // 2, 5, 5 if dense.shape.pool == "token" else 3]
    inputs = tokens_between_blocks(dense.module, images(40))
    chain = find_masks(blocks_of(dense.module), inputs, dense.shape, counts, paths=paths, places=places, own=own)
    masks = chain.masks if own else chain.masks[:, None]
    assert masks.shape[0] == 4
    for mask_BP, count in zip(masks, counts, strict=True):
        assert (mask_BP.sum(dim=1) == count).all()
    for shallow_BP, deep_BP in itertools.pairwise(masks):
        assert (shallow_BP | ~deep_BP).all()


def test_many_images_in_batches_are_scored_like_one_by_one():
    dense = make_dense()
    dense.module.double()
    blocks, shape = blocks_of(dense.module), dense.shape
    inputs = tokens_between_blocks(dense.module, images(40, dtype=torch.float64))
    together = find_masks(blocks, inputs, shape, [12, 8, 4, 4], paths="residual")
    alone = [find_masks(blocks, [x[i : i + 1] for x in inputs], shape, [12, 8, 4, 4], paths="residual") for i in range(40)]
    # Only the last blocks' scores do not depend on masks, which are found from all images.
    torch.testing.assert_close(together.scores[-1], torch.stack([c.scores[-1] for c in alone]).mean(0), rtol=1e-9, atol=0)
    own = find_masks(blocks, inputs, shape, [12, 8, 4, 4], paths="residual", own=True)
    for image, chain in enumerate(alone):
        torch.testing.assert_close(own.scores[:, image], chain.scores, rtol=1e-9, atol=0)
        assert torch.equal(own.masks[:, image], chain.masks)


def test_descent_scores_follow_eq_6_of_the_models_own_attention():
    """Two blocks of a real model, from the class token, against the sum over paths."""
    dense = make_dense("vit", depth=2)
    dense.module.double()
    inputs = tokens_between_blocks(dense.module, images(1, dtype=torch.float64))
    blocks = blocks_of(dense.module)
    descent = Descent(blocks, inputs, dense.shape, paths="paper")
    maps = [attention_maps(block.attn, block.norm1(x)) for block, x in zip(blocks, inputs, strict=False)]
    none_P = torch.zeros(64, dtype=torch.bool)
    descent.keep(none_P)
    class_only = torch.cat((torch.ones(1, 1), torch.zeros(1, 64)), 1).double()
    expected = _by_paths(maps, inputs, [torch.ones(1, 65).double(), class_only], 0, residual=False)
    torch.testing.assert_close(descent.scores()[0], expected[1:], rtol=1e-9, atol=0)


def test_equal_scores_are_kept_in_reading_order_behind_what_is_inherited():
    inherited_P = torch.tensor([False, False, False, True, False])
    mask_P = best_mask(torch.tensor([1.0, 1.0, 2.0, 0.0, 1.0]), inherited_P, 4)
    assert mask_P.tolist() == [True, True, True, True, False]


def test_inflow_does_not_see_signs():
    maps, inputs, _ = _random_layers(1)
    assert torch.equal(inflow(maps[0], inputs[0]), inflow(maps[0], -inputs[0]))


def test_a_block_without_attention_hands_scores_on():
    dense = make_dense()
    block = blocks_of(dense.module)[2]
    drop_attention(block)
    inputs = tokens_between_blocks(dense.module, images(4))
    chain = find_masks(blocks_of(dense.module), inputs, dense.shape, [8, 6, 4, 4], paths="paper")
    assert torch.isfinite(chain.scores).all()
    assert chain.masks.sum(dim=1).tolist() == [8, 6, 4, 4]


def test_memory_bounds_the_images_that_are_measured_on():
    small = make_dense("vit").shape
    assert images_to_measure(small) == 512
    assert images_to_measure(small.replace(depth=48, dim=4096, grid=(64, 64))) == 1


def test_covering_prefers_a_patch_unlike_those_that_stay():
    """Two near copies of high impact and one other patch of less: by score both copies stay, by coverage one of them."""
    patches_BPD = torch.tensor([[[1.0, 0.0, 0.0], [1.0, 0.05, 0.0], [0.0, 0.0, 1.0], [0.9, 0.1, 0.0]]])
    score_BP = torch.tensor([[10.0, 9.0, 4.0, 1.0]])
    none_P = torch.zeros(4, dtype=torch.bool)
    by_score, covering = (order_of(score_BP, patches_BPD, none_P, places=places) for places in ("score", "cover"))
    assert by_score.mask(2).nonzero()[:, 0].tolist() == [0, 1]
    assert covering.mask(2).nonzero()[:, 0].tolist() in ([0, 2], [1, 2])
    assert covering.mask(4).all()


def greedily(score_BP: Tensor, patches_BPD: Tensor, inherited: list[int]) -> list[int]:
    """The order of `CoverageOrder` by its definition: every patch's saving, again for every addition."""
    weight_BP = (score_BP / score_BP.sum(dim=1, keepdim=True)).sqrt()
    z_BPD = torch.nn.functional.layer_norm(patches_BPD, patches_BPD.shape[-1:])
    distance_BPP = torch.cdist(z_BPD, z_BPD).square()
    order, nearest_BP = list(inherited), distance_BPP.amax(dim=(1, 2))[:, None].expand_as(weight_BP)
    while True:
        for patch in order:
            nearest_BP = torch.minimum(nearest_BP, distance_BPP[:, patch])
        left = [patch for patch in range(score_BP.shape[1]) if patch not in order]
        if not left:
            return order
        saved = [(weight_BP * (nearest_BP - distance_BPP[:, patch]).clamp_min(0)).sum().item() for patch in left]
        order.append(left[saved.index(max(saved))])


def test_the_lazy_order_is_the_greedy_one():
    generator = torch.Generator().manual_seed(3)
    score_BP = torch.rand(6, 30, generator=generator, dtype=torch.float64)
    patches_BPD = torch.randn(6, 30, 8, generator=generator, dtype=torch.float64)
    inherited_P = torch.zeros(30, dtype=torch.bool).index_fill(0, torch.tensor([4, 17]), True)
    assert CoverageOrder(score_BP, patches_BPD, inherited_P).first(30) == greedily(score_BP, patches_BPD, [4, 17])


def test_only_patches_that_a_block_adds_are_ordered_and_few_are_evaluated_again(monkeypatch: pytest.MonkeyPatch):
    """A trial at 224 pixels: 196 patches and 12 blocks, 13 patches fewer from block to block."""
    orders = []

    class Counted(CoverageOrder):
        def __init__(self, *parts: Tensor) -> None:
            super().__init__(*parts)
            self.joins = 0
            orders.append(self)

        def _best(self) -> int:
            self.joins += 1
            return super()._best()

    monkeypatch.setattr(impact, "CoverageOrder", Counted)
    generator, inherited_P = torch.Generator().manual_seed(0), torch.zeros(196, dtype=torch.bool)
    counts = [196 - 13 * block for block in range(1, 12)]
    # Few images and features: what is counted does not depend on them.
    for count in reversed(counts):
        score_BP, patches_BPD = torch.rand(4, 196, generator=generator), torch.randn(4, 196, 8, generator=generator)
        inherited_P = order_of(score_BP, patches_BPD, inherited_P, places="cover").mask(count)
    # All patches of all blocks, each addition with an evaluation of every patch that is left, would be 12 x 19,306.
    assert sum(order.joins for order in orders) == counts[0]
    assert sum(order.evaluations for order in orders) < 11 * 196 + 12 * counts[0]


def test_attention_maps_are_bounded_by_memory_and_not_by_images():
    assert batch_of_maps(6, 197) == 32
    # DINOv2 at 518 pixels: 1,370 tokens, of which 32 images' maps would be 1.4 GB.
    assert batch_of_maps(6, 1370) == 5
    assert batch_of_maps(16, 1370) == 2
    assert batch_of_maps(64, 10**5) == 1
    for heads, tokens in ((3, 65), (6, 1370), (12, 577), (16, 1370)):
        assert 4 * batch_of_maps(heads, tokens) * heads * tokens**2 <= MAP_BYTES


def test_no_more_maps_are_computed_at_once_than_memory_allows(monkeypatch: pytest.MonkeyPatch):
    dense = make_dense()
    inputs = tokens_between_blocks(dense.module, images(9))
    expected = find_masks(blocks_of(dense.module), inputs, dense.shape, [12, 8, 4, 4], paths="paper", own=True)
    sizes = []
    of_batch = impact.attention_maps
    monkeypatch.setattr(impact, "MAP_BYTES", 4 * 2 * dense.shape.heads * dense.shape.tokens**2)
    monkeypatch.setattr(impact, "attention_maps", lambda part, x_BND: sizes.append(len(x_BND)) or of_batch(part, x_BND))
    found = find_masks(blocks_of(dense.module), inputs, dense.shape, [12, 8, 4, 4], paths="paper", own=True)
    assert max(sizes) == 2
    assert torch.equal(found.masks, expected.masks)


@pytest.mark.parametrize("places", ["score", "cover"])
def test_what_is_inherited_is_kept_first(places: str):
    inherited_P = torch.tensor([False, False, True, False, True])
    order = order_of(torch.rand(3, 5), torch.randn(3, 5, 4), inherited_P, places=places)
    assert torch.equal(order.mask(2), inherited_P)
    assert order.mask(3).sum() == 3
    assert (order.mask(3) | ~inherited_P).all()
