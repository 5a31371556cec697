"""The paper's own claims (arXiv 2106.02852) on the static form, and what is ours in the counts."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import random
from typing import Any

import pytest
import timm
import torch
from helpers.cifar10_vit import accuracy, real_model
from helpers.examples import examples
from helpers.merged_tokens import check_merging
from helpers.selected_rows import check_rows_are_the_whole_blocks
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
    shared_of,
    slim,
    solved_knobs,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autoslim.core.constraints import CostLimits
from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs
from autoslim.core.shape import ViTShape
from autoslim.cost import count_flops, predict
from autoslim.errors import InfeasibleError, UnsupportedModelError
from autoslim.methods import METHODS, Constraints, solve
from autoslim.methods.layers.backbone import install
from autoslim.methods.layers.merging import MERGING
from autoslim.methods.layers.rectangular_block import RectangularBlock, class_query_last
from autoslim.methods.layers.stored_names import stored_state_dict
from autoslim.methods.layers.token_selector import FixedTokens
from autoslim.methods.layers.token_trunk import Trunk, blocks_of
from autoslim.methods.patch_slimming.block_tuning import _Search, restore_blocks
from autoslim.methods.patch_slimming.impact import find_masks, tokens_between_blocks
from autoslim.methods.patch_slimming.method import counts_of_plan, measured_tokens, token_selectors
from autoslim.methods.patch_slimming.pyramid import (
    allocate_by_score,
    chosen_blocks,
    interpolate_ladder,
    nested_rows,
    price_of,
    pyramid,
    rectangular,
)
from autoslim.methods.patch_slimming.tuning_budget import EPSILONS, Passes, steps_to_all
from autoslim.models import read_shape

METHOD = METHODS["patch_slimming"]

# For the contract suite.

KEEP_ALL = {"keep": 1.0, "class_query": False}
VARIANTS = {"pyramid": {"counts": "pyramid"}}

EARLIER: Knobs = {"counts": "pyramid", "paths": "residual", "places": "cover", "class_query": False}
"""The defaults of version 0.1.0."""


def check_training_form_is_pruned_form(model: str, variant: str = "", method: str = "patch_slimming") -> None:
    dense = make_dense(model)
    dense.module.double()
    case = f"{method}:{variant}" if variant else method
    knobs = solved_knobs(case, dense.shape)
    student = attached(case, dense, knobs).eval()
    assert not any(parameter.requires_grad for parameter in student.parameters())
    cut = prune(case, student, dense.shape, knobs).model
    whole = copy.deepcopy(dense.module)
    if method == "patch_slimming_merging":
        check_merging(cut, with_weights_of(cut, whole))
    else:
        check_rows_are_the_whole_blocks(cut, with_weights_of(cut, whole))


def with_weights_of(cut: nn.Module, whole: nn.Module) -> nn.Module:
    """The dense model with the blocks that Algorithm 1 has tuned."""
    for own, block in zip(blocks_of(whole), blocks_of(cut), strict=True):
        own.load_state_dict({name: value for name, value in block.state_dict().items() if name in own.state_dict()})
    return whole


def deit_small() -> ViTShape:
    with torch.device("meta"):
        return read_shape(timm.create_model("deit_small_patch16_224"))


def free_price(shape: ViTShape):
    return price_of(shape, lambda counts: rectangular(shape, Plan.dense(shape), counts))


# What happens to the patches that go.


@pytest.mark.parametrize("method", ["patch_slimming", "dps", "life_regression"])
def test_the_dead_are_dropped_unless_they_are_to_merge(method: str):
    shape = make_dense("vit").shape
    whole = {"class_query": False} if "class_query" in METHODS[method].ranges else {}
    knobs = METHODS[method].repair(shape, whole)
    assert knobs["dead"] == "drop"
    dropped = METHODS[method].expect(shape, Plan.dense(shape), knobs)
    merged = METHODS[method].expect(shape, Plan.dense(shape), {**knobs, "dead": "merge"})
    assert dropped.blocks == merged.blocks
    # A recipe that is older than the knob drops, too.
    assert METHODS[method].expect(shape, Plan.dense(shape), {k: v for k, v in knobs.items() if k != "dead"}) == dropped
    prices = [extra for extra in merged.extras if extra.name == MERGING]
    assert prices and set(merged.extras) - set(dropped.extras) == set(prices)
    left = {int(extra.place.removeprefix("block ")) for extra in prices}
    before, priced = shape.patches, set()
    for number, block in enumerate(merged.blocks):
        count = block.tokens_mlp - shape.prefix_tokens
        if count < before:
            priced.add(number)
        before = count
    assert left == priced


@pytest.mark.parametrize("method", ["patch_slimming", "dps", "life_regression"])
def test_merging_keeps_what_dropping_loses_of_equal_patches(method: str):
    """All patches of an image are equal: merged, nothing is lost; dropped, the class token attends to fewer of them."""
    dense = make_dense("vit")
    dense.module.double().pos_embed.data[:, dense.shape.prefix_tokens :] = 0
    x = images(3, size=4, dtype=torch.float64).repeat(1, 1, 8, 8)
    # Algorithm 1 would tune blocks, so that they no longer compute what the dense model's do.
    untuned = {"counts": "pyramid"} if "counts" in METHODS[method].ranges else {}
    merged, dropped = (slim(method, dense, knobs={**untuned, "dead": dead}).model.double() for dead in ("merge", "drop"))
    torch.testing.assert_close(logits(merged, x), logits(dense.module, x), rtol=0, atol=1e-9)
    assert (logits(dropped, x) - logits(dense.module, x)).abs().max() > 1e-3


@pytest.mark.parametrize("method", ["patch_slimming", "dps", "life_regression"])
def test_merging_is_refused_where_the_head_cannot_weight(method: str):
    shape = make_dense("average").shape.replace(pool="avgmax")
    METHODS[method].repair(shape, {})
    with pytest.raises(UnsupportedModelError, match=rf"{method} with dead 'merge': merged tokens need pooling"):
        METHODS[method].repair(shape, {"dead": "merge"})


@pytest.mark.parametrize(("method", "knobs"), [("dps", {"adaptive": True}), ("life_regression", {"mode": "threshold"})])
def test_counts_that_vary_from_image_to_image_drop(method: str, knobs: dict[str, Any]):
    shape = make_dense("vit").shape
    assert METHODS[method].repair(shape, {**knobs, "dead": "merge"}) == METHODS[method].repair(shape, knobs)


# Counts.


# Multiply-accumulates of PS-ViT on DeiT-Ti, DeiT-S and DeiT-B in units of 1e9, as published. Counts per block are not.
@pytest.mark.parametrize(("size", "published", "exact"), [("tiny", 0.7, 0.691), ("small", 2.6, 2.560), ("base", 9.8, 9.832)])
def test_the_papers_budgets_are_those_of_a_pyramid(size: str, published: float, exact: float):
    """A line of 13 patches fewer a block, 14 in the first, and the class token alone in the last; norms are on top in our count."""
    with torch.device("meta"):
        shape = read_shape(timm.create_model(f"deit_{size}_patch16_224"))
    counts = [195 - 13 * block for block in range(1, 12)]
    plan = METHOD.plan_of(shape, Plan.dense(shape), METHOD.repair(shape, {}), [*counts, counts[-1]])
    matmuls = predict(shape, plan).matmuls / 1e9
    assert matmuls == pytest.approx(exact, abs=5e-4)
    assert abs(matmuls - published) <= 0.05


@pytest.mark.parametrize("method", ["patch_slimming", "dps"])
def test_the_defaults_are_the_papers_method(method: str):
    shape = make_dense("vit").shape
    knobs = METHODS[method].repair(shape, {})
    assert (knobs["counts"], knobs["paths"], knobs["class_query"], knobs["dead"]) == ("epsilon", "paper", True, "drop")
    assert knobs.get("places", "score") == "score"


@pytest.mark.parametrize("method", ["patch_slimming", "dps"])
@pytest.mark.parametrize("model", ["vit", "distilled", "registers", "average"])
def test_the_last_block_computes_the_class_token_alone_where_nothing_else_is_read(method: str, model: str):
    dense = make_dense(model)
    finished = slim(method, dense)
    last, before = finished.plan.blocks[-1], finished.plan.blocks[-2]
    if dense.shape.pool == "token":
        assert (last.tokens_q, last.tokens_mlp, last.tokens_kv) == (dense.shape.prefix_tokens,) * 2 + (before.tokens_mlp,)
        assert finished.model.forward_features(images()).shape[1] == dense.shape.prefix_tokens
    else:
        assert "class_query" not in finished.knobs
        assert last.tokens_mlp > dense.shape.prefix_tokens
    # The recipe's own class query changes nothing then.
    x = images()
    expected = logits(finished.model, x)
    if dense.shape.pool == "token":
        assert torch.equal(logits(class_query_last(finished.model, dense.shape.prefix_tokens), x), expected)


@pytest.mark.parametrize("method", ["patch_slimming", "dps"])
def test_recipes_of_earlier_versions_leave_the_last_block_whole(method: str):
    dense = make_dense("vit")
    knobs = METHODS[method].repair(dense.shape, {name: EARLIER[name] for name in EARLIER if name in METHODS[method].ranges})
    older = {name: value for name, value in knobs.items() if name != "class_query"}
    plan = METHODS[method].expect(dense.shape, Plan.dense(dense.shape), older)
    assert plan == METHODS[method].expect(dense.shape, Plan.dense(dense.shape), knobs)
    assert plan.blocks[-1].tokens_q == plan.blocks[-1].tokens_kv
    assert METHODS[method].repair(dense.shape, older) == knobs
    built = METHODS[method].build(copy.deepcopy(dense.module), dense.shape, plan, older)
    assert count_flops(built, 32) == predict(dense.shape, plan).total


@pytest.mark.parametrize("share", [0.35, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("method", ["patch_slimming", "dps"])
def test_budgets_of_a_deit_small_are_filled_to_a_two_hundredth(share: float, method: str):
    shape = deit_small()
    budget = share_of_dense(shape, share)
    for taper in (0.0, 0.3, 1.0):
        solved = solve(METHODS[method], shape, Plan.dense(shape), {"counts": "pyramid", "taper": taper}, budget)
        assert 0.995 * budget <= solved.flops <= budget


def test_counts_fall_and_never_reach_nothing():
    shape = deit_small()
    draw = random.Random(0)
    for _ in range(200):
        knobs = METHOD.repair(
            shape,
            {
                "keep": draw.uniform(0.02, 1.0),
                "counts": "pyramid",
                "taper": draw.uniform(0, 1),
                "spare": draw.randrange(2**12),
            },
        )
        counts = pyramid(shape, knobs)
        assert all(196 >= before >= after >= 1 for before, after in itertools.pairwise([196, *counts]))
        assert counts[-1] == counts[-2], "the last block's own outputs are the recipe's to choose"
        assert METHOD.repair(shape, knobs) == knobs


@pytest.mark.parametrize("method", ["patch_slimming", "dps"])
def test_a_fall_of_the_counts_is_a_knob_of_the_pyramid_alone(method: str):
    """Algorithm 1 and the scores decide on the counts themselves: two recipes that differ in it would be the same model."""
    shape = make_dense("vit").shape
    for counts in ("epsilon", "score"):
        steep, flat = (METHODS[method].repair(shape, {"counts": counts, "taper": taper}) for taper in (1.0, 0.0))
        assert steep == flat == METHODS[method].repair(shape, {"counts": counts})
        assert "taper" not in steep
    steep, flat = (METHODS[method].repair(shape, {"counts": "pyramid", "taper": taper}) for taper in (1.0, 0.0))
    assert pyramid(shape, steep) != pyramid(shape, flat)


def test_equal_counts_are_equal_recipes():
    shape = make_dense("vit").shape
    for keep in (0.3, 0.5, 0.62, 0.9):
        one = METHOD.repair(shape, {"keep": keep})
        other = METHOD.repair(shape, {"keep": one["keep"] + 1e-4})
        assert pyramid(shape, one) == pyramid(shape, {**one, "keep": keep})
        assert (one == other) == (pyramid(shape, one) == pyramid(shape, other))


@settings(max_examples=examples(100), deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), share=st.floats(0.35, 0.9))
def test_counts_by_score_or_error_use_the_budget_up(seed: int, share: float):
    shape = make_shape("vit")
    generator = torch.Generator().manual_seed(seed)
    price, budget = free_price(shape), share_of_dense(shape, share)
    score_LP = torch.rand(shape.depth, shape.patches, generator=generator) ** 4
    ladder_KL = (
        (torch.rand(3, shape.depth, generator=generator) * 64).long().sort(dim=0).values.sort(dim=1, descending=True).values
    )
    for counts in (allocate_by_score(shape, score_LP, price, budget), interpolate_ladder(shape, ladder_KL, price, budget)[0]):
        assert all(64 >= before >= after >= 1 for before, after in itertools.pairwise([64, *counts]))
        # One patch of one block is 0.4 to 1.2 % of this model.
        assert 0.965 * budget <= price(counts) <= budget


def make_shape(model: str) -> ViTShape:
    return SHAPES.setdefault(model, make_dense(model).shape)


SHAPES: dict[str, ViTShape] = {}


def test_by_score_gives_patches_to_the_block_that_needs_them():
    shape = make_shape("vit")
    score_LP = torch.ones(4, 64)
    score_LP[2, 3:] = 1e-6
    counts = allocate_by_score(shape, score_LP, free_price(shape), share_of_dense(shape, 0.4))
    assert counts[2] <= 3 < 20 < counts[1]


def test_between_rungs_the_dearest_that_fits_is_found():
    shape = make_shape("vit")
    price = free_price(shape)
    rungs = torch.tensor([[20, 10, 5, 5], [40, 30, 20, 20]])
    assert interpolate_ladder(shape, rungs, price, price([20, 10, 5, 5])) == ([20, 10, 5, 5], pytest.approx(0, abs=0.1))
    counts, place = interpolate_ladder(shape, rungs, price, (price([20, 10, 5, 5]) + price([40, 30, 20, 20])) // 2)
    assert 0 < place < 1
    assert all(low <= count <= high for low, count, high in zip(rungs[0].tolist(), counts, rungs[1].tolist(), strict=True))
    assert interpolate_ladder(shape, rungs, price, 10**12)[0] == [64] * 4


@pytest.mark.slow
@pytest.mark.parametrize("method", ["patch_slimming", "dps"])
@settings(max_examples=examples(34), deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), share=st.floats(0.35, 0.9))
@pytest.mark.parametrize("model", ["vit", "deit", "distilled"])
def test_random_recipes_measure_what_their_plans_say(model: str, method: str, seed: int, share: float):
    dense = DENSE.setdefault(model, make_dense(model))
    draw = random.Random(seed)
    knobs = {"keep": draw.uniform(0.1, 1.0), "counts": draw.choice(("epsilon", "pyramid")), "taper": draw.uniform(0.0, 1.0)}
    if method == "dps":
        knobs |= {"selector": draw.choice(("linear", "mlp")), "adaptive": draw.choice((False, True))}
    try:
        solved = solve(METHODS[method], dense.shape, Plan.dense(dense.shape), knobs, share_of_dense(dense.shape, share))
    except InfeasibleError:
        return
    built = METHODS[method].build(copy.deepcopy(dense.module), dense.shape, solved.plan, solved.knobs)
    assert count_flops(built, 32) == solved.flops == predict(dense.shape, solved.plan).total <= share_of_dense(dense.shape, share)


DENSE: dict[str, Any] = {}


# Masks.


def test_indices_are_constants_that_are_saved():
    finished = slim("patch_slimming", make_dense("vit"))
    state = stored_state_dict(finished.model)
    for number, selector in token_selectors(finished.model).items():
        assert isinstance(selector, FixedTokens)
        assert torch.equal(state[f"blocks.stages.{number}.block.pick.index"], selector.index)
    assert all(isinstance(blocks_of(finished.model)[number], RectangularBlock) for number in token_selectors(finished.model))


@pytest.mark.parametrize("model", ["vit", "distilled", "registers", "average without class token"])
def test_the_same_patches_stay_in_every_image_and_none_comes_back(model: str):
    dense = make_dense(model)
    finished = slim("patch_slimming", dense)
    prefix = dense.shape.prefix_tokens
    places = torch.arange(dense.shape.tokens)
    for selector in token_selectors(finished.model).values():
        kept = selector.rows(torch.empty(0))
        assert kept[:prefix].tolist() == list(range(prefix))
        assert (kept.diff() > 0).all(), "in reading order"
        places = places[kept]
    # The last block has no places of its own where it computes the class token alone.
    last = finished.plan.blocks[-2 if dense.shape.pool == "token" else -1]
    assert len(places) == last.tokens_mlp


@pytest.mark.parametrize(("paths", "places"), [("paper", "score"), ("residual", "cover")])
def test_masks_are_the_chains_own(paths: str, places: str):
    dense = make_dense("vit")
    knobs = solved_knobs("patch_slimming", dense.shape, knobs={"counts": "pyramid", "paths": paths, "places": places})
    student = attach("patch_slimming", dense, knobs)
    shared = shared_of("patch_slimming", dense, knobs)
    inputs = tokens_between_blocks(dense.module, shared["images"].float())
    counts = pyramid(dense.shape, knobs)
    chain = find_masks(blocks_of(dense.module), inputs, dense.shape, counts, paths=paths, places=places)
    rows = nested_rows(chain.masks, dense.shape.prefix_tokens)
    assert token_selectors(student)
    for number, selector in token_selectors(student).items():
        assert torch.equal(selector.index, rows[number])


def test_masked_attention_of_the_paper_is_what_the_cut_model_computes():
    """MSA with diag(m_l) in front of P, MLP with diag(m_l), on all tokens, against the model whose tokens are gone."""
    dense = make_dense("vit")
    dense.module.double()
    cut = slim("patch_slimming", dense, knobs={"class_query": False}).model.double().eval()
    x = images(dtype=torch.float64)
    with torch.no_grad():
        with_weights_of(cut, dense.module)
        x_BND = tokens_between_blocks(dense.module, x)[0]
        alive = torch.arange(dense.shape.tokens)
        selectors = token_selectors(cut)
        for number, block in enumerate(blocks_of(dense.module)):
            inside = torch.zeros(dense.shape.tokens, dtype=torch.bool)
            inside[alive] = True
            # A key that is gone has the weight 0 in every softmax.
            mask = torch.zeros(1, 1, 1, dense.shape.tokens, dtype=torch.float64).masked_fill(~inside, float("-inf"))
            x_BND = block(x_BND, attn_mask=mask.expand(-1, -1, dense.shape.tokens, -1))
            if number in selectors:
                alive = alive[selectors[number].index]
        expected = dense.module.forward_head(dense.module.norm(x_BND))
    torch.testing.assert_close(logits(cut, x), expected, rtol=0, atol=1e-10)


def test_an_earlier_cut_of_the_tokens_is_refused():
    shape = make_dense().shape
    cut = Plan.dense(shape).with_tokens((17, 17, 10, 10))
    with pytest.raises(UnsupportedModelError, match="tokens: an earlier step"):
        METHOD.expect(shape, cut, METHOD.repair(shape, {}))


def test_one_block_is_too_few():
    with pytest.raises(UnsupportedModelError, match="2 to 52 blocks, the model has 1"):
        METHOD.check(make_dense().shape.replace(depth=1))


def test_a_class_query_takes_the_place_of_the_last_block_alone():
    dense = make_dense()
    knobs = solved_knobs("patch_slimming", dense.shape)
    plan = Plan.dense(dense.shape, class_query=True)
    expected = METHOD.expect(dense.shape, plan, knobs)
    assert (expected.blocks[-1].tokens_q, expected.blocks[-1].tokens_mlp) == (1, 1)
    assert counts_of_plan(dense.shape, expected) == pyramid(dense.shape, knobs)
    built = class_query_last(METHOD.build(copy.deepcopy(dense.module), dense.shape, expected, knobs), 1)
    assert count_flops(built, 32) == predict(dense.shape, expected).total


def test_widths_of_an_earlier_step_stay():
    dense = make_dense()
    narrow = slim("vit_slim", dense, share=0.8)
    knobs = solve(METHOD, dense.shape, narrow.plan, {}, share_of_dense(dense.shape, 0.5)).knobs
    context = context_of(dense.shape, knobs, 0.5, shared=shared_of("patch_slimming", dense, knobs))
    context = context.__class__(**{**vars(context), "plan": narrow.plan})
    finished = METHOD.prune(METHOD.attach(copy.deepcopy(narrow.model), context, images()), context)
    assert [(b.head_width, b.hidden) for b in finished.plan.blocks] == [(b.head_width, b.hidden) for b in narrow.plan.blocks]
    assert count_flops(finished.model, 32) == predict(dense.shape, finished.plan).total <= share_of_dense(dense.shape, 0.5)


# Algorithm 1.


def ladder_of(model: str = "vit", share: float = 0.4) -> tuple[Any, dict[str, Tensor], list[Any]]:
    dense = make_dense(model)
    settings = {"search_share": share, "paths": "residual", "places": "cover"}
    return dense, *finished_work(METHOD.prepare(TinySharedTrainer(dense), settings))


def finished_work(work: Any) -> tuple[dict[str, Tensor], list[Any]]:
    reports = []
    while True:
        try:
            reports.append(next(work))
        except StopIteration as end:
            return end.value, reports


@pytest.mark.parametrize("model", ["vit", "registers", "average"])
def test_smaller_epsilons_keep_more_and_every_error_is_below_its_epsilon(model: str):
    dense, shared, reports = ladder_of(model)
    chosen = chosen_blocks(dense.shape)
    assert len(reports) == len(EPSILONS) == len(shared["counts"])
    assert (shared["counts"].diff(dim=0) >= 0).all()
    assert (shared["counts"].diff(dim=1) <= 0).all()
    for epsilon, counts, errors in zip(EPSILONS, shared["counts"], shared["errors"], strict=True):
        for block in range(chosen):
            assert errors[block] <= epsilon or counts[block] == dense.shape.patches
    assert reports[-1].epoch == pytest.approx(0.4 * TinySharedTrainer.training.epochs)
    assert {"epsilon", "patches 0", "error 0", "raw error 0"} <= reports[0].metrics.keys()


def test_an_error_is_that_of_two_pruned_blocks_on_the_original_input():
    dense = make_dense("vit")
    dense.module.double()
    tokens = tokens_between_blocks(dense.module, images(4, dtype=torch.float64))
    blocks = blocks_of(dense.module)
    search = _Search(blocks, tokens, dense.shape, Passes(measured=4, tuned=0), "residual", "score")
    generator = torch.Generator().manual_seed(0)
    behind_P = torch.rand(64, generator=generator) < 0.3
    mask_P = behind_P | (torch.rand(64, generator=generator) < 0.3)
    relative, raw = search._error(1, mask_P, behind_P)
    rows, rows_behind = search._rows(mask_P), search._rows(behind_P)
    with torch.no_grad():
        pruned_BKD = blocks[1](tokens[1])[:, rows]
        out_BKD = blocks[2](pruned_BKD)[:, torch.isin(rows, rows_behind)]
        target_BKD = tokens[3][:, rows_behind]
    off = float((out_BKD - target_BKD).square().sum())
    assert raw == pytest.approx(off, rel=1e-9)
    assert relative == pytest.approx(off / float(target_BKD.square().sum()), rel=1e-9)
    assert relative > 0
    assert search._error(1, torch.ones(64, dtype=torch.bool), behind_P)[0] == pytest.approx(0, abs=1e-20)


def test_tuning_a_block_lowers_its_error_and_leaves_the_model_alone():
    dense = make_dense("vit")
    tokens = tokens_between_blocks(dense.module, images(32))
    before = copy.deepcopy(dense.module.state_dict())
    mask_P = torch.arange(64) < 20
    behind_P = torch.arange(64) < 10
    search = _Search(blocks_of(dense.module), tokens, dense.shape, Passes(measured=32, tuned=640), "residual", "score")
    errors = [search._error(1, mask_P, behind_P)]
    errors.append(search._tune(1, mask_P, behind_P, errors[0]))
    assert search._error(1, mask_P, behind_P) == errors[1]
    assert errors[1] < errors[0]
    assert search.blocks[1] is not search.dense[1]
    assert all(torch.equal(value, before[name]) for name, value in dense.module.state_dict().items())


def test_passes_stay_within_their_share():
    shared_trainer = TinySharedTrainer(make_dense("vit"))
    for share in (0.1, 0.4):
        passes = Passes.within(share, shared_trainer, 512)
        tunings = 3 * 2 * len(EPSILONS)
        measurements = 3 * (len(EPSILONS) + steps_to_all(shared_trainer.shape.patches)) + tunings
        spent = (tunings * passes.tuned + measurements * passes.measured / 3) * 2 / shared_trainer.shape.depth
        assert passes.measured == 16 or spent <= share * shared_trainer.epoch_images


class LongTrainer(TinySharedTrainer):
    """Enough images that candidates are tuned."""

    epoch_images = 100_000


def test_the_slimmed_model_starts_from_the_blocks_that_algorithm_1_has_tuned():
    dense = make_dense("vit")
    knobs = solved_knobs("patch_slimming", dense.shape, 0.5)
    settings = METHOD.shared_settings(dense.shape, knobs)
    assert settings == {"search_share": 0.2, "paths": "paper", "places": "score"}
    shared = finished_work(METHOD.prepare(LongTrainer(dense), settings))[0]
    assert any(name.endswith("mlp.fc1.weight") for name in shared)
    context = context_of(dense.shape, knobs, 0.5, shared=shared)
    found = METHOD.decide(dense.module, context, measured_tokens(dense.module, context))
    cut = METHOD.prune(METHOD.attach(copy.deepcopy(dense.module), context, images()), context).model
    rung, tuned = int(found.place), 0
    for number, (block, whole, count) in enumerate(zip(blocks_of(cut), blocks_of(dense.module), found.counts, strict=True)):
        rungs = [earlier for earlier in range(rung + 1) if f"{earlier}.{number}.mlp.fc1.weight" in shared]
        own = block.mlp.fc1.weight
        if rungs and count < dense.shape.patches:
            tuned += 1
            assert torch.equal(own, shared[f"{rungs[-1]}.{number}.mlp.fc1.weight"].float())
            assert not torch.equal(own, whole.mlp.fc1.weight)
        else:
            assert torch.equal(own, whole.mlp.fc1.weight)
    assert tuned
    # Earlier versions kept none.
    older = {name: value for name, value in shared.items() if "." not in name}
    untuned = METHOD.attach(copy.deepcopy(dense.module), context_of(dense.shape, knobs, 0.5, shared=older), images())
    assert all(
        torch.equal(block.mlp.fc1.weight, whole.mlp.fc1.weight)
        for block, whole in zip(blocks_of(untuned), blocks_of(dense.module), strict=True)
    )


@pytest.mark.slow
def test_restored_blocks_reach_the_errors_of_their_rung():
    dense = make_dense("vit")
    shared, _ = finished_work(METHOD.prepare(LongTrainer(dense), {"search_share": 0.4, "paths": "paper", "places": "score"}))
    tokens = tokens_between_blocks(dense.module, torch.cat(list(TinySharedTrainer(dense).images(16))))
    for rung, (counts, errors) in enumerate(zip(shared["counts"].tolist(), shared["errors"].tolist(), strict=True)):
        blocks = blocks_of(copy.deepcopy(dense.module))
        restore_blocks(blocks, shared, rung, counts, dense.shape.patches)
        search = _Search(blocks_of(dense.module), tokens, dense.shape, Passes(measured=16, tuned=0), "paper", "score")
        search.blocks = blocks
        chain = find_masks(blocks_of(dense.module), tokens, dense.shape, counts, paths="paper")
        for block in range(chosen_blocks(dense.shape)):
            behind_P = chain.masks[block + 1] if block + 1 < chosen_blocks(dense.shape) else torch.zeros(64, dtype=torch.bool)
            found = search._error(block, chain.masks[block], behind_P)[0]
            # Half precision is off by 2^-11.
            assert found == pytest.approx(errors[block], rel=0.02, abs=1e-5)


def test_a_chain_does_not_put_dense_blocks_over_pruned_widths():
    dense = make_dense()
    narrow = slim("vit_slim", dense, share=0.8)
    knobs = solve(METHOD, dense.shape, narrow.plan, {}, share_of_dense(dense.shape, 0.5)).knobs
    shared = finished_work(METHOD.prepare(LongTrainer(dense), METHOD.shared_settings(dense.shape, knobs)))[0]
    context = dataclasses.replace(context_of(dense.shape, knobs, 0.5, shared=shared), plan=narrow.plan)
    cut = METHOD.attach(copy.deepcopy(narrow.model), context, images())
    for block, own in zip(blocks_of(cut), blocks_of(narrow.model), strict=True):
        assert torch.equal(block.mlp.fc1.weight, own.mlp.fc1.weight)


@pytest.mark.parametrize("counts", ["epsilon", "score"])
def test_counts_that_are_measured_keep_to_a_limit_on_the_latency(counts: str):
    """A timer that charges twice the FLOPs' share: what fills the FLOPs budget would break the limit."""
    dense = make_dense("vit")
    whole = predict(dense.shape, Plan.dense(dense.shape)).total
    limits = CostLimits(latency_ms=0.4, batch=1)
    constraints = Constraints(limits=limits, timer=lambda plan: predict(dense.shape, plan).total / whole)
    solved = solve(METHOD, dense.shape, Plan.dense(dense.shape), {"counts": counts}, whole, constraints=constraints)
    context = context_of(dense.shape, solved.knobs, 1.0, shared=shared_of("patch_slimming", dense, solved.knobs))
    context = dataclasses.replace(context, constraints=constraints)
    finished = METHOD.prune(METHOD.attach(copy.deepcopy(dense.module), context, images()), context)
    assert 0.38 < constraints.timer(finished.plan) <= 0.4


@pytest.mark.parametrize("model", ["vit", "average"])
@pytest.mark.parametrize("counts", ["score", "epsilon"])
def test_measured_counts_meet_the_budget(model: str, counts: str):
    dense = make_dense(model)
    finished = slim("patch_slimming", dense, knobs={"counts": counts})
    total = predict(dense.shape, finished.plan).total
    assert count_flops(finished.model, 32) == total <= share_of_dense(dense.shape, 0.6)
    pieces = 0.965 if model == "vit" else 0.9
    assert total >= pieces * share_of_dense(dense.shape, 0.6)


def test_kinds_of_models_are_those_of_the_conformance_suite():
    for model in MODELS:
        METHOD.check(make_shape(model))


# The trained model and real images.


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("share", [0.5, 0.3])
def test_patches_that_were_chosen_are_worth_more_than_others_on_the_trained_model(share: float):
    """Straight after pruning: the method's places against as many, nested alike, dealt at random."""
    dense, x, labels, shared = real_model()
    shape = read_shape(dense)
    knobs = solved_knobs("patch_slimming", shape, share, EARLIER)
    context = context_of(shape, knobs, share, shared=shared)
    cut = METHOD.prune(METHOD.attach(copy.deepcopy(dense), context, x[:1]), context).model.eval()
    chosen = accuracy(cut, x, labels)
    dealt = [accuracy(with_random_places(dense, shape, pyramid(shape, knobs), seed), x, labels) for seed in range(3)]
    print(f"test top-1 straight after pruning to {share:.0%}: chosen {chosen:.4f}, dealt at random {dealt}")
    assert chosen > sum(dealt) / len(dealt)


def with_random_places(dense: nn.Module, shape: ViTShape, counts: list[int], seed: int) -> nn.Module:
    order = torch.randperm(shape.patches, generator=torch.Generator().manual_seed(seed))
    masks = torch.stack([torch.zeros(shape.patches, dtype=torch.bool).index_fill(0, order[:count], True) for count in counts])
    model = copy.deepcopy(dense)
    rows = nested_rows(masks, shape.prefix_tokens)
    blocks = [RectangularBlock(block, FixedTokens(index)) for block, index in zip(blocks_of(model), rows, strict=True)]
    return install(model, Trunk(blocks, {})).eval()
