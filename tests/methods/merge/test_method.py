"""Token merging: sizes, exactness for equal tokens, what stays, and the counts (mostly ours; the idea is arXiv 2210.09461's)."""

from __future__ import annotations

import copy
import itertools

import pytest
import timm
import torch
from helpers.cifar10_vit import accuracy, real_model
from helpers.examples import examples
from helpers.merged_tokens import check_merging, each_images, passes
from helpers.tiny import (
    MODELS,
    TinySharedTrainer,
    attach,
    attached,
    context_of,
    images,
    logits,
    make_dense,
    prune,
    share_of_dense,
    slim,
    slimmed,
    solved_knobs,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs
from autoslim.core.shape import ViTShape
from autoslim.cost import count_flops, predict
from autoslim.errors import UnsupportedModelError
from autoslim.methods import METHODS, evaluate, solve
from autoslim.methods.layers.groups import SizedTokens, unit_length
from autoslim.methods.layers.merging import MergingBlock
from autoslim.methods.layers.rectangular_block import block_rows, class_query_last
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.methods.merge.counts import KEEP, patch_counts, quarter_ends
from autoslim.methods.merge.soft_merging import SoftMerge
from autoslim.methods.merge.spread import SpreadTokens, stride
from autoslim.models import DenseModel, read_shape
from autoslim.report.token_survival import follow

METHOD = METHODS["merge"]

# For the contract suite.

KEEP_ALL = dict.fromkeys(KEEP, 1.0)
VARIANTS = {"fixed": {"places": "fixed"}, "learned": {"embedding": "learned", "criteria": "several"}}


def check_training_form_is_pruned_form(model: str, variant: str = "") -> None:
    """Nothing is trained before pruning: the only form is the pruned one, which merges as it is written out in `helpers.merged_tokens`."""
    dense = make_dense(model)
    dense.module.double()
    case = f"merge:{variant}" if variant else "merge"
    knobs = solved_knobs(case, dense.shape)
    student = attached(case, dense, knobs).double().eval()
    if variant == "learned":
        check_soft_merging_becomes_the_pruned_form(dense, student, knobs)
        return
    cut = prune(case, copy.deepcopy(student), dense.shape, knobs).model
    x = images(dtype=torch.float64)
    torch.testing.assert_close(logits(cut, x), logits(student, x), rtol=0, atol=1e-10)
    check_merging(cut, dense.module)


def check_soft_merging_becomes_the_pruned_form(dense: DenseModel, student: nn.Module, knobs: Knobs) -> None:
    """As its softness falls: then each patch goes whole or not at all, and to the nearest one."""
    x = images(dtype=torch.float64)
    cut = METHOD.prune(copy.deepcopy(student), context_of(dense.shape, knobs)).model
    expected = logits(cut, x)
    assert not torch.allclose(logits(student, x), expected, rtol=0, atol=1e-4)
    for part in student.modules():
        if isinstance(part, SoftMerge):
            part.softness = 1e-8
    # A patch that is gone still counts for a millionth of one.
    torch.testing.assert_close(logits(student, x), expected, rtol=0, atol=1e-4)


def deit_small() -> ViTShape:
    with torch.device("meta"):
        return read_shape(timm.create_model("deit_small_patch16_224"))


# Sizes.


@pytest.mark.parametrize("places", ["image", "fixed"])
@pytest.mark.parametrize("model", MODELS)
def test_sizes_sum_to_the_number_of_patches(model: str, places: str):
    dense = make_dense(model)
    finished = slim("merge", dense, knobs={"places": places}, share=0.5)
    prefix, merging = dense.shape.prefix_tokens, 0
    for _, _, left in passes(finished.model, images()):
        assert left.size_BN.min() >= 1
        assert (left.size_BN[:, :prefix] == 1).all()
        assert (left.size_BN[:, prefix:].sum(dim=1) == dense.shape.patches).all()
        merging += 1
    assert merging >= 2


def test_sizes_are_exact_in_mixed_precision():
    finished = slimmed("merge", "vit")[1]
    with torch.autocast("cpu", torch.bfloat16):
        seen = passes(finished.model, images())
    assert seen
    assert all(torch.equal(left.size_BN.sum(dim=1), torch.full((3,), 65.0)) for _, _, left in seen)


def equal_patches(model: nn.Module, shape: ViTShape, *, kinds: int) -> Tensor:
    """Images whose patches are of one or two kinds, and a model that cannot tell places apart, in double precision."""
    model.double().pos_embed.data[:, -shape.patches :] = 0
    patch = images(2, size=shape.image_size[0] // shape.grid[0], dtype=torch.float64)
    columns = [patch[0 if column % 3 else kinds - 1] for column in range(shape.grid[1])]
    row = torch.cat(columns, dim=-1)
    return torch.cat([row] * shape.grid[0], dim=-2)[None].repeat(2, 1, 1, 1)


@pytest.mark.parametrize(("kinds", "last"), [(2, 0.7), (1, 0.05)])
@pytest.mark.parametrize("model", MODELS)
def test_merging_equal_tokens_changes_nothing(model: str, kinds: int, last: float):
    dense = make_dense(model)
    x = equal_patches(dense.module, dense.shape, kinds=kinds)
    knobs = METHOD.repair(dense.shape, dict(zip(KEEP, (0.9, 0.8, 0.7, last), strict=True)))
    merged = attach("merge", dense, knobs, x.float())
    assert patch_counts(dense.shape, knobs)[-1] < dense.shape.patches
    torch.testing.assert_close(logits(merged, x), logits(dense.module, x), rtol=0, atol=1e-9)


def test_a_norm_in_front_of_the_mean_is_kept_there():
    dense = make_dense("average", fc_norm=False)
    assert dense.shape.final_norm
    x = equal_patches(dense.module, dense.shape, kinds=1)
    finished = slim("merge", dense, share=0.5)
    torch.testing.assert_close(logits(finished.model, x), logits(dense.module, x), rtol=0, atol=1e-9)
    assert count_flops(finished.model, 32) == predict(dense.shape, finished.plan).total


def test_a_head_that_adds_a_maximum_to_the_mean_is_refused():
    shape = make_dense("average").shape.replace(pool="avgmax")
    with pytest.raises(
        UnsupportedModelError, match="merge: merged tokens need pooling 'token', 'avg' or 'max'; this model's is 'avgmax'"
    ):
        METHOD.check(shape)


def test_tokens_of_any_length_are_compared_in_half_precision():
    x_BND = torch.randn(1, 5, 8) * torch.tensor([0.0, 1e-3, 1.0, 100.0, 1000.0])[:, None]
    unit_BND = unit_length(x_BND.half())
    torch.testing.assert_close(unit_BND[:, 2:].norm(dim=-1), torch.ones(1, 3, dtype=torch.float16), rtol=0.01, atol=0)
    assert torch.isfinite(unit_BND).all()


# What stays.


def test_patches_most_like_another_one_go_first():
    patches_PD = torch.randn(9, 16)
    # Second ones are 1, 3, 5 and 7. Of the first ones 4 is nearly 1 and 8 nearly 7.
    patches_PD[4], patches_PD[8] = patches_PD[1] + 0.001 * torch.randn(16), patches_PD[7] + 0.01 * torch.randn(16)
    x_BND = torch.cat((torch.randn(2, 16), patches_PD))[None]
    kept = [[row - 2 for row in SpreadTokens(2 + left, 2).rows(x_BND)[0].tolist()[2:]] for left in (9, 8, 7)]
    assert kept == [list(range(9)), [0, 1, 2, 3, 5, 6, 7, 8], [0, 1, 2, 3, 5, 6, 7]]
    assert set(SpreadTokens(2 + 5, 2).rows(x_BND)[0].tolist()) >= {0, 1, 3, 5, 7, 9}


def test_where_half_or_more_go_the_second_ones_are_dealt_again():
    assert [stride(64, left) for left in (64, 33, 32, 31, 17, 16, 5, 1)] == [1, 1, 2, 2, 2, 4, 8, 32]
    x_BND = torch.randn(2, 1 + 64, 16)
    for left in range(1, 65):
        rows_BK = SpreadTokens(1 + left, 1).rows(x_BND)
        assert rows_BK.shape == (2, 1 + left)
        assert (rows_BK.diff(dim=1) > 0).all()
        step = stride(64, left)
        assert ((rows_BK[:, 1:] - 1) % step == step - 1).all()


@pytest.mark.parametrize(("places", "differ"), [("image", True), ("fixed", False)])
def test_places_are_the_images_own_or_the_same_for_all(places: str, differ: bool):
    finished = slim("merge", make_dense("vit"), knobs={"places": places})
    block, entered, _ = passes(finished.model, images(3))[0]
    rows_BK = each_images(block.merge.selector.rows(entered.x_BND), 3)
    assert torch.equal(rows_BK[0], rows_BK[1]) != differ
    # What joins what is the image's own in both.
    groups_BSG = block.merge.groups(entered).joins_BSG
    assert not torch.equal(groups_BSG[0], groups_BSG[1])


def test_fixed_places_are_nested_and_found_on_the_shared_images():
    dense = make_dense("vit")
    finished = [slim("merge", dense, knobs={"places": "fixed"}) for _ in range(2)]
    index = [dict(one.model.named_buffers()) for one in finished]
    assert index[0].keys() == index[1].keys() != set()
    assert all(torch.equal(index[0][name], index[1][name]) for name in index[0])
    settings = METHOD.shared_settings(dense.shape, METHOD.repair(dense.shape, {"places": "fixed"}))
    assert settings == {}
    assert METHOD.shared_settings(dense.shape, METHOD.repair(dense.shape, {})) is None
    (report,) = METHOD.prepare(TinySharedTrainer(dense), settings)
    assert report.metrics == {"images": 16.0}


@pytest.mark.parametrize("places", ["image", "fixed"])
def test_one_image_and_many_give_the_same_logits(places: str):
    finished = slim("merge", make_dense("vit"), knobs={"places": places})
    together = logits(finished.model, images(5))
    for image in range(5):
        torch.testing.assert_close(logits(finished.model, images(5)[image : image + 1])[0], together[image], rtol=1e-4, atol=1e-5)


# Pictures.


@pytest.mark.parametrize("places", ["image", "fixed"])
def test_a_token_map_says_what_each_token_is_made_of(places: str):
    finished = slim("merge", make_dense("distilled"), knobs={"places": places}, share=0.5)
    for block, entered, _ in passes(finished.model, images()):
        map_BKN = block.token_map(entered)
        torch.testing.assert_close(map_BKN.sum(dim=2), torch.ones_like(map_BKN[..., 0]))
        torch.testing.assert_close(map_BKN @ entered.x_BND, block.merge(entered).x_BND, rtol=1e-5, atol=1e-5)


def test_patches_are_followed_through_the_model():
    dense, finished = slimmed("merge", "vit")
    survival = follow(finished.model, images(), dense.shape)
    assert survival.mixed
    left = [block.tokens_mlp - dense.shape.prefix_tokens for block in finished.plan.blocks]
    assert survival.counts[1:].tolist() == [[count] * 3 for count in left]
    # No patch is lost: each is a part of some token.
    assert (survival.weights > 0).all()


# Counts.


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("places", ["image", "fixed"])
def test_budgets_of_a_deit_small_are_filled_to_a_two_hundredth(share: float, places: str):
    shape = deit_small()
    budget = share_of_dense(shape, share)
    for profile in ({}, {"keep_1": 0.5}, {"keep_1": 1.0, "keep_2": 1.0}):
        solved = solve(METHOD, shape, Plan.dense(shape), {"places": places, **profile}, budget)
        assert 0.995 * budget <= solved.flops <= budget


@pytest.mark.parametrize("places", ["image", "fixed"])
def test_no_patch_more_fits_a_solved_budget(places: str):
    shape = make_dense("vit").shape
    budget = share_of_dense(shape, 0.6)
    solved = solve(METHOD, shape, Plan.dense(shape), {"places": places}, budget)
    more = [evaluate(METHOD, shape, Plan.dense(shape), knobs) for knobs in METHOD.costlier(shape, solved.knobs, METHOD.ranges)]
    assert more
    assert all(step.flops > budget or step.flops <= solved.flops for step in more)


shares = st.floats(0.0, 1.0)


@pytest.mark.slow
@settings(max_examples=examples(100), deadline=None, derandomize=True)
@given(keep=st.lists(shares, min_size=4, max_size=4), spare=st.integers(0, 2**12), small=st.booleans())
def test_counts_fall_and_equal_counts_are_equal_recipes(keep: list[float], spare: int, small: bool):
    shape = make_dense("vit").shape if small else deit_small()
    knobs = METHOD.repair(shape, {**dict(zip(KEEP, keep, strict=True)), "spare": spare})
    counts = patch_counts(shape, knobs)
    assert all(shape.patches >= before >= after >= 1 for before, after in itertools.pairwise([shape.patches, *counts]))
    assert counts[-1] == counts[-2], "the last block's own outputs are the recipe's to choose"
    assert METHOD.repair(shape, knobs) == knobs
    # The knobs can be told from the counts.
    for name, block in zip(KEEP, quarter_ends(shape), strict=True):
        assert knobs[name] == counts[block] / shape.patches


def test_quarters_end_where_they_should():
    assert quarter_ends(deit_small()) == [2, 5, 7, 10]
    assert quarter_ends(make_dense("vit", depth=2).shape) == [0, 0, 0, 0]
    assert quarter_ends(make_dense("average", depth=6).shape) == [1, 2, 4, 5]


@pytest.mark.parametrize("places", ["image", "fixed"])
@pytest.mark.parametrize("share", [0.35, 0.5, 0.8])
def test_a_class_query_goes_with_it(places: str, share: float):
    dense = make_dense("vit")
    finished = slim("merge", dense, knobs={"places": places}, share=share, class_query=True)
    model = class_query_last(finished.model, dense.shape.prefix_tokens)
    assert count_flops(model, 32) == predict(dense.shape, finished.plan).total
    whole = slim("merge", dense, knobs=finished.knobs, share=2.0)
    assert logits(model, images()).shape == logits(whole.model, images()).shape


def test_what_an_earlier_step_has_cut_is_refused():
    shape = make_dense("vit").shape
    cut = METHOD.expect(shape, Plan.dense(shape), METHOD.repair(shape, {}))
    with pytest.raises(UnsupportedModelError, match="an earlier step of this recipe has pruned them already"):
        METHOD.expect(shape, cut, METHOD.repair(shape, {}))
    assert context_of(shape, {}).plan == Plan.dense(shape)


# A trained model.


@pytest.mark.parametrize("places", ["image", "fixed"])
def test_a_trained_model_keeps_more_merged_than_dropped(places: str):
    dense, x, labels, shared = real_model()
    shape = read_shape(dense)
    knobs = solve(METHOD, shape, Plan.dense(shape), {"places": places}, share_of_dense(shape, 0.35)).knobs
    context = context_of(shape, knobs, 0.35, shared=shared)
    merged = METHOD.attach(copy.deepcopy(dense), context, x[:8])
    dropped = copy.deepcopy(merged)
    for block in blocks_of(dropped):
        if isinstance(block, MergingBlock):
            block.forward = _dropping(block)  # type: ignore[method-assign]
    assert accuracy(merged, x, labels) > accuracy(dropped, x, labels) + 0.01


def _dropping(block: MergingBlock):
    def forward(tokens: SizedTokens) -> SizedTokens:
        return tokens._replace(x_BND=block_rows(block, tokens.x_BND, block.merge.selector.rows(tokens.x_BND)))

    return forward
