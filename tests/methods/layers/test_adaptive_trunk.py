"""Counts that differ from image to image: one result in every form, and no more FLOPs than the caps or the budget allow."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.marks import CI_ONLY
from helpers.tiny import attached as attached_student
from helpers.tiny import config_of, context_of, images, logits, make_dense, share_of_dense, slim, slimmed, solved_knobs
from torch import Tensor, nn

from autoslim.core.plan import Extra, Plan
from autoslim.core.recipe import TrainingSettings
from autoslim.cost import count_flops, count_flops_torch, predict
from autoslim.errors import UnsupportedModelError
from autoslim.export.artifact import load, save
from autoslim.methods import METHODS, SlimmedModel, StepContext
from autoslim.methods.layers.adaptive_trunk import (
    AdaptiveTrunk,
    CountedTokens,
    Scorer,
    TokenDrop,
    TokenDropBlock,
    dynamic_shapes,
    static_shapes,
)
from autoslim.methods.layers.backbone import install
from autoslim.methods.layers.rectangular_block import class_query_last
from autoslim.methods.layers.token_counts import image_flops, plan_of_image, recording, token_counts
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.methods.life_regression.regressor import patch_lives
from autoslim.models import DenseModel
from autoslim.search import Proposer, parse_space

TOKEN_POOLED = ["vit", "deit", "distilled", "registers"]
LIFE = METHODS["life_regression"]


class Linear(Scorer):
    """Scores every patch by itself, in front of every drop anew."""

    def __init__(self, dim: int, num_prefix_tokens: int, seed: int) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self.head = nn.Linear(dim, 1, bias=False)
        self.head.weight.data.copy_(torch.randn(1, dim, generator=torch.Generator().manual_seed(seed)) / dim**0.5)

    def forward(self, tokens: CountedTokens) -> Tensor:
        return self.head(tokens.x_BND)[:, self.num_prefix_tokens :, 0]

    def price(self, block: int, tokens: int) -> Extra:
        return Extra(name="linear", place=f"block {block}", matmuls=tokens * self.head.in_features, norms=0)


CAPS = {1: 40, 2: 30, 3: 20}
FORMS = ["sorted once", "scored anew", "inside"]


def adaptive(form: str, model: str = "vit") -> tuple[DenseModel, nn.Module, Plan]:
    """A model with three drops, the last before or in the last block, and its plan."""
    dense = make_dense(model, patch_size=4)
    shape, prefix = dense.shape, dense.shape.prefix_tokens
    module = copy.deepcopy(dense.module)
    scorers = [Linear(shape.dim, prefix, seed) if seed == 1 or form != "sorted once" else None for seed in CAPS]
    drops = {
        block: TokenDrop(cap=cap, threshold=0.1 * block, num_prefix_tokens=prefix, scorer=scorer)
        for (block, cap), scorer in zip(CAPS.items(), scorers, strict=True)
    }
    blocks = blocks_of(module)
    tokens = [shape.tokens, *(cap + prefix for cap in CAPS.values())]
    plan = Plan.dense(shape).with_tokens(tuple(tokens))
    if form == "inside":
        blocks = [TokenDropBlock(block, drops[index]) if index in drops else block for index, block in enumerate(blocks)]
        entering = [shape.tokens, *tokens[:-1]]
        plan = plan.replace(blocks=tuple(b.replace(tokens_kv=n) for b, n in zip(plan.blocks, entering, strict=True)))
        drops = {}
    install(module, AdaptiveTrunk(blocks, drops))
    before = [shape.tokens, *tokens[:-1]]
    extras = [scorer.price(block, before[block]) for block, scorer in zip(CAPS, scorers, strict=True) if scorer is not None]
    return dense, module.eval(), plan.replace(extras=tuple(extras))


each_form = pytest.mark.parametrize("form", FORMS)


@each_form
@pytest.mark.parametrize("model", TOKEN_POOLED)
@pytest.mark.parametrize("fused", [True, False])
def test_a_batch_gives_what_its_images_give_alone(form: str, model: str, fused: bool):
    _, module, _ = adaptive(form, model)
    module.double()
    for block in blocks_of(module):
        block.attn.fused_attn = fused
    x = images(6, dtype=torch.float64)
    counts = token_counts(module, x)
    assert len({tuple(count_L) for count_L in counts[:, :, 1].tolist()}) > 3, "the images differ in their counts"
    alone = torch.cat([logits(module, image[None]) for image in x])
    torch.testing.assert_close(logits(module, x), alone, rtol=0, atol=1e-10)
    with static_shapes(module):
        torch.testing.assert_close(logits(module, x), alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", [pytest.param(form, marks=CI_ONLY if form == "inside" else pytest.mark.slow) for form in FORMS])
def test_the_flops_of_an_image_are_those_predicted_for_its_counts(form: str):
    dense, module, plan = adaptive(form)
    x = images(20)
    counts_BL2 = token_counts(module, x)
    flops = image_flops(module, dense.shape, plan, counts_BL2).tolist()
    most = predict(dense.shape, plan).total
    assert count_flops(module, 32) == most
    assert len(set(flops)) > 5
    for image, predicted in zip(x, flops, strict=True):
        with dynamic_shapes(module):
            assert count_flops(module, 32, image[None]) == predicted <= most


@each_form
def test_the_class_query_counts_as_well(form: str):
    dense, module, plan = adaptive(form)
    if form == "inside":
        module = install(copy.deepcopy(module), AdaptiveTrunk([*blocks_of(module)[:-1], blocks_of(dense.module)[-1]], {}))
        plan = plan.replace(blocks=(*plan.blocks[:-1], plan.blocks[-1]), extras=plan.extras[:-1])
    expected = logits(module, images(4))
    prefix = dense.shape.prefix_tokens
    module = class_query_last(module, prefix).eval()
    torch.testing.assert_close(logits(module, images(4)), expected)
    last = plan.blocks[-1].replace(tokens_q=prefix, tokens_mlp=prefix)
    plan = plan.replace(blocks=(*plan.blocks[:-1], last))
    assert count_flops(module, 32) == predict(dense.shape, plan).total
    counts_BL2 = token_counts(module, images(3))
    assert (counts_BL2[:, -1, 1] == prefix).all()
    with dynamic_shapes(module):
        measured = [count_flops(module, 32, image[None]) for image in images(3)]
    assert image_flops(module, dense.shape, plan, counts_BL2).tolist() == measured


@each_form
def test_tokens_are_really_removed(form: str):
    """At batch 1 no block sees a mask or a token that its image has dropped."""
    dense, module, _ = adaptive(form)
    seen = []

    def note(attention: nn.Module, inputs: tuple[Tensor], kwargs: dict[str, Tensor | None]) -> None:
        seen.append((inputs[0].shape[1], kwargs.get("attn_mask")))

    x = images(1)
    counts_L2 = token_counts(module, x)[0]
    if form != "inside":
        for block in blocks_of(module):
            block.attn.register_forward_pre_hook(note, with_kwargs=True)
        logits(module, x)
        assert seen == [(enter, None) for enter in counts_L2[:, 0].tolist()]
    assert (counts_L2[1:, 1] <= torch.tensor(list(CAPS.values())) + dense.shape.prefix_tokens).all()
    with torch.no_grad():
        assert module.forward_features(x).shape[1] == counts_L2[-1, 1]


@each_form
@pytest.mark.parametrize("threshold", [-math.inf, math.inf])
def test_every_image_keeps_a_patch_and_none_more_than_the_cap(form: str, threshold: float):
    dense, module, _ = adaptive(form)
    for _, drop in module.blocks.drops():
        drop.threshold.fill_(threshold)
    kept = token_counts(module, images(3))[:, 1:, 1] - dense.shape.prefix_tokens
    assert torch.equal(kept, torch.tensor([1, 1, 1] if threshold > 0 else list(CAPS.values())).expand(3, -1))


@each_form
def test_token_maps_say_where_the_tokens_of_an_image_come_from(form: str):
    dense, module, _ = adaptive(form)
    maps, kept = [], []

    def note(part: nn.Module, inputs: tuple[CountedTokens]) -> None:
        maps.append(part.token_map(inputs[0]))
        kept.append(inputs[0])

    for stage in module.blocks.stages:
        part = stage.block if isinstance(stage.block, TokenDropBlock) else stage.pre_block
        if part is not None:
            part.register_forward_pre_hook(note)
    counts_BL2 = token_counts(module, images(5))
    for map_BKN, entering, leave_B in zip(maps, kept, counts_BL2[:, 1:, 1].unbind(1), strict=True):
        assert torch.equal(map_BKN.sum(dim=2).sum(dim=1), leave_B.to(map_BKN.dtype))
        assert map_BKN.shape == (5, int(leave_B.max()), entering.x_BND.shape[1])
        padding_BN = entering.padding_BN()
        assert not map_BKN.sum(dim=1)[padding_BN].any(), "padding is nobody's origin"
        prefix = dense.shape.prefix_tokens
        assert torch.equal(map_BKN[:, :prefix, :prefix], torch.eye(prefix).expand(5, -1, -1))


@each_form
def test_training_through_a_batch_gives_the_gradients_of_its_images(form: str):
    _, module, _ = adaptive(form)
    module.double()
    x = images(4, dtype=torch.float64)
    together = torch.autograd.grad(module(x).square().sum(), module.blocks.stages[2].block.mlp.fc1.weight)[0]
    alone = sum(
        torch.autograd.grad(module(image[None]).square().sum(), module.blocks.stages[2].block.mlp.fc1.weight)[0] for image in x
    )
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)


def test_recording_leaves_fixed_counts_alone():
    _, finished = slimmed("life_regression", "deit")
    with recording(finished.model) as batches:
        logits(finished.model, images())
    assert batches == []
    with static_shapes(finished.model):
        assert count_flops(finished.model, 32) == predict(make_dense("deit").shape, finished.plan).total


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_traced_model_is_right_for_other_images():
    """A trace freezes the counts of the image it was made with, so that it is made with the caps."""
    _, module, _ = adaptive("scored anew")
    with torch.no_grad():
        traced = torch.jit.trace(module, images(2))
    x = images(2, seed=5)
    torch.testing.assert_close(logits(traced, x), logits(module, x))


# Life regression in threshold mode, and budgets for the mean.


def threshold_model(
    model: str = "vit", *, bound: str = "max", share: float = 0.6
) -> tuple[DenseModel, SlimmedModel, StepContext]:
    dense = make_dense(model)
    knobs = solved_knobs("life_regression:threshold", dense.shape, share)
    context = context_of(dense.shape, knobs, share, bound=bound)
    student = attached_student("life_regression", dense, knobs, share=share)
    with torch.no_grad():
        finished = LIFE.prune(student, context)
    finished.model.eval()
    return dense, finished, context


def plain_images() -> Iterator[Tensor]:
    yield from images(256, seed=9).split(64)


@pytest.mark.parametrize("model", TOKEN_POOLED)
def test_a_patch_stays_while_its_life_is_longer_than_the_block(model: str):
    dense, finished, _ = threshold_model(model)
    x = images(8)
    life_BP, counts_BL2 = patch_lives(finished.model, x), token_counts(finished.model, x)
    for block, drop in finished.model.blocks.drops():
        assert drop.threshold == block
        longer_B = (life_BP > block).sum(dim=1).clamp(min=1, max=drop.cap)
        assert torch.equal(counts_BL2[:, block, 0], longer_B + dense.shape.prefix_tokens)
        assert drop.cap + dense.shape.prefix_tokens == finished.plan.blocks[block].tokens_kv


def test_under_a_budget_for_every_image_the_caps_are_the_counts_of_the_schedule():
    dense, finished, context = threshold_model()
    assert finished.plan == LIFE.expect(dense.shape, context.plan, context.knobs)
    assert predict(dense.shape, finished.plan).total <= context.budget
    before = copy.deepcopy(finished.model.state_dict())
    LIFE.calibrate(finished.model, context, plain_images)
    assert all(torch.equal(before[name], tensor) for name, tensor in finished.model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.45, 0.7])
def test_a_budget_for_the_mean_is_met_and_used_on_the_calibration_images(share: float):
    dense, finished, context = threshold_model(bound="mean", share=share)
    context = StepContext(**{**vars(context), "plan": finished.plan})
    most = predict(dense.shape, finished.plan).total
    assert count_flops(finished.model, 32) == most > context.budget
    LIFE.calibrate(finished.model, context, plain_images)
    counts = torch.cat([token_counts(finished.model, batch) for batch in plain_images()])
    flops = image_flops(finished.model, dense.shape, finished.plan, counts)
    assert 0.97 * context.budget < flops.double().mean() <= 0.996 * context.budget
    assert context.budget < flops.max() <= most
    x = images(3)
    for image, predicted in zip(
        x, image_flops(finished.model, dense.shape, finished.plan, token_counts(finished.model, x)), strict=True
    ):
        with dynamic_shapes(finished.model):
            assert count_flops(finished.model, 32, image[None]) == predicted


def test_fixed_counts_are_the_same_under_either_bound():
    dense = make_dense()
    knobs = solved_knobs("life_regression", dense.shape)
    one, other = (
        LIFE.prune(attached_student("life_regression", dense, knobs), context_of(dense.shape, knobs, bound=bound))
        for bound in ("max", "mean")
    )
    assert one.plan == other.plan
    assert torch.equal(logits(one.model.eval(), images()), logits(other.model.eval(), images()))


def test_settled_thresholds_are_saved_with_the_weights(tmp_path: Path):
    dense, finished, context = threshold_model(bound="mean")
    LIFE.calibrate(finished.model, StepContext(**{**vars(context), "plan": finished.plan}), plain_images)
    save(tmp_path, finished.model, config_of("life_regression", dense, finished))
    loaded = load(tmp_path)
    x = images(4)
    assert torch.equal(token_counts(loaded, x), token_counts(finished.model, x))
    torch.testing.assert_close(logits(loaded, x), logits(finished.model, x))


@pytest.mark.parametrize("model", ["average", "average without class token"])
def test_pooling_over_patches_is_refused_by_name(model: str):
    with pytest.raises(UnsupportedModelError, match=r"threshold mode: .* pooling 'token'; this model's is 'avg'"):
        LIFE.repair(make_dense(model).shape, {"mode": "threshold"})


@pytest.mark.parametrize("share", [0.4, 0.8])
def test_a_plan_of_an_image_is_never_dearer_than_that_of_the_model(share: float):
    dense, finished, _ = threshold_model(share=share)
    for count_L2 in token_counts(finished.model, images(16)):
        plan = plan_of_image(finished.model, dense.shape, finished.plan, count_L2)
        plan.check(dense.shape)
        assert predict(dense.shape, plan).total <= predict(dense.shape, finished.plan).total <= share_of_dense(dense.shape, share)


def test_torch_counts_the_caps_too():
    dense, finished, _ = threshold_model()
    predicted = predict(dense.shape, finished.plan)
    with static_shapes(finished.model):
        counted = count_flops_torch(finished.model, 32)
    assert counted == predicted.matmuls + finished.plan.extras[0].matmuls
    assert finished.model.blocks.form == ""


def test_steps_after_the_cut_train_through_the_same_counts():
    finished = slim("life_regression:threshold", make_dense())
    before = token_counts(finished.model, images(4))
    finished.model.train()
    finished.model(images(4)).square().sum().backward()
    assert all(p.grad is not None for p in finished.model.parameters() if p.requires_grad)
    assert torch.equal(token_counts(finished.model, images(4)), before)


def test_a_search_does_without_threshold_mode_where_the_model_refuses_it():
    shape = make_dense("average").shape
    budgets = {"60%": share_of_dense(shape, 0.6)}
    space = parse_space("methods: {life_regression: }", source="whole.yaml")
    proposer = Proposer(space=space, shape=shape, budgets=budgets, training=TrainingSettings(), seed=0)
    proposals = [proposer.propose(number, []) for number in range(6)]
    assert {proposal.recipe.steps[0].knobs["mode"] for proposal in proposals} == {"fixed"}
    assert all(proposal.infeasible is None for proposal in proposals)
