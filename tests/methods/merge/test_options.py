"""Token merging's options, off by default: learned embeddings (arXiv 2412.10569), several criteria and consistency (arXiv 2403.10030)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from helpers.merged_tokens import passes
from helpers.tiny import (
    attached,
    batch_of,
    context_of,
    images,
    logits,
    make_dense,
    slim,
    solved_knobs,
)
from torch import Tensor, nn

from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs
from autoslim.cost import count_flops, predict, predict_params
from autoslim.errors import UnsupportedModelError
from autoslim.methods import METHODS
from autoslim.methods.base import logits_of
from autoslim.methods.layers.groups import Nearness, SizedTokens, unit_length
from autoslim.methods.layers.merging import MergeInto
from autoslim.methods.layers.rectangular_block import block_rows
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.methods.merge.consistency import SHARES, eased_counts, other_counts, read_by_head
from autoslim.methods.merge.matching import InformedMergingBlock, MatchedMerge, Matching, embedding_width
from autoslim.methods.merge.prices import EMBEDDED_MERGING, INFORMATION
from autoslim.methods.merge.soft_merging import SoftMerge, SoftTokens
from autoslim.methods.merge.spread import CHOICE, SpreadTokens
from autoslim.methods.patch_slimming.impact import attention_maps
from autoslim.training.batch import LazyDistillationBatch

METHOD = METHODS["merge"]
LEARNED: Knobs = {"embedding": "learned"}
SEVERAL: Knobs = {"criteria": "several"}
MANY = {"learned": LEARNED, "several": SEVERAL, "both": {**LEARNED, **SEVERAL}, "fixed": {**SEVERAL, "places": "fixed"}}

each_option = pytest.mark.parametrize("option", MANY)


@each_option
def test_what_an_option_costs_is_in_the_plan(option: str):
    dense = make_dense("distilled")
    finished = slim("merge", dense, knobs=MANY[option])
    assert count_flops(finished.model, 32) == predict(dense.shape, finished.plan).total
    assert sum(p.numel() for p in finished.model.parameters()) == predict_params(dense.shape, finished.plan)
    names = {extra.name for extra in finished.plan.extras}
    assert (EMBEDDED_MERGING in names) == (option in ("learned", "both"))
    assert (INFORMATION in names) == (option != "learned")
    assert (CHOICE in names) == (option == "several")
    merging = [block for block in blocks_of(finished.model) if hasattr(block, "merge")]
    assert len(merging) >= 2
    assert all(isinstance(block, InformedMergingBlock) == (option != "learned") for block in merging)


@each_option
def test_an_option_changes_what_the_model_computes(option: str):
    dense = make_dense("vit")
    finished = slim("merge", dense, knobs=MANY[option])
    counts = {name: value for name, value in finished.knobs.items() if name.startswith(("keep", "spare", "places"))}
    plain = attached("merge", dense, METHOD.repair(dense.shape, counts)).eval()
    assert not torch.allclose(logits(finished.model, images()), logits(plain, images()), atol=1e-3)
    for _, _, left in passes(finished.model, images(), type(merging_blocks(finished.model)[0])):
        assert (left.size_BN[:, 1:].sum(dim=1) == dense.shape.patches).all()


def merging_blocks(model: nn.Module) -> list[Any]:
    return [block for block in blocks_of(model) if hasattr(block, "merge")]


def test_embeddings_start_nearly_as_the_tokens_are():
    dense = make_dense("vit")
    student = attached("merge", dense, solved_knobs("merge", dense.shape, knobs=LEARNED))
    merge = merging_blocks(student)[0].merge
    assert isinstance(merge, SoftMerge)
    x_BND = torch.cat([entered.x_BND for _, entered, _ in passes(student, images(), type(merging_blocks(student)[0]))[:1]])
    near = merge.matching(SizedTokens(x_BND, None), None)
    assert near.unit_BNE.shape == (3, 65, embedding_width(48)) == (3, 65, 16)
    torch.testing.assert_close(near.unit_BNE.norm(dim=-1), torch.ones(3, 65))
    own, plain = near.every(1, 1), Nearness(unit_length(x_BND)[:, 1:])
    alike = torch.corrcoef(torch.stack((own.to(own).flatten(), plain.to(plain).flatten())))[0, 1]
    assert alike > 0.5


def test_the_training_of_embeddings_lowers_the_loss_and_moves_nothing_else():
    dense = make_dense("vit")
    knobs = solved_knobs("merge", dense.shape, knobs=LEARNED)
    student = attached("merge", dense, knobs).train()
    trained = {name: parameter for name, parameter in student.named_parameters() if parameter.requires_grad}
    assert trained and all(name.endswith("matching.weight") for name in trained)
    assert set(METHOD.learning_rates(student, knobs)) == {"matching.weight"}
    optimizer = torch.optim.Adam(trained.values(), lr=0.01)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = METHOD.loss(knobs, batch_of(student, dense.module, dense.shape))["loss"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert min(losses[6:]) < losses[0]
    # In the fine-tuning they stay: no gradient passes through a choice.
    pruned = METHOD.prune(student, context_of(dense.shape, knobs)).model
    frozen = [name for name, parameter in pruned.named_parameters() if not parameter.requires_grad]
    assert len(frozen) == len(trained) and all(name.endswith("matching.weight") for name in frozen)


@pytest.mark.parametrize(("patches", "left"), [(9, 7), (16, 9), (16, 5), (16, 4), (6, 1), (3, 1)])
def test_soft_merging_loses_nothing(patches: int, left: int):
    torch.manual_seed(0)
    hard = MatchedMerge(SpreadTokens(2 + left, 2), 2, Matching(8, embedded=False, informed=False))
    x_BND, size_BN = torch.randn(3, 2 + patches, 8).double(), 1 + torch.rand(3, 2 + patches).double()
    tokens = SoftTokens(x_BND, size_BN, 2 + patches)
    groups = SoftMerge(hard, 0.2).groups(tokens)
    merged = groups.merge(tokens)
    torch.testing.assert_close(merged.size_BN.sum(dim=1), size_BN.sum(dim=1))
    content = [(one.size_BN.unsqueeze(-1) * one.x_BND).sum(dim=1) for one in (tokens, merged)]
    torch.testing.assert_close(*content)
    assert torch.equal(merged.x_BND[:, :2], x_BND[:, :2]) and torch.equal(merged.size_BN[:, :2], size_BN[:, :2])
    # About as many patches are left as in the pruned form, and those that it keeps have most of what is left.
    assert torch.equal(merged.alive, hard.groups(SizedTokens(x_BND, size_BN)).rows)
    kept = merged.size_BN.gather(1, merged.alive)[:, 2:].sum(dim=1) / merged.size_BN[:, 2:].sum(dim=1)
    assert kept.min() > 0.5
    if left == 1:
        return
    # And again, from the patches that are alive alone.
    again = SoftMerge(MatchedMerge(SpreadTokens(3, 2), 2, hard.matching), 0.2)
    last = again.groups(merged).merge(merged)
    torch.testing.assert_close(last.size_BN.sum(dim=1), size_BN.sum(dim=1))
    assert last.alive.shape == (3, 3)


def test_several_criteria_are_as_in_the_paper():
    torch.manual_seed(0)
    x_BND, size_BN, received_BN = torch.randn(2, 6, 8), torch.randint(1, 5, (2, 6)).float(), torch.rand(2, 6)
    near = Matching(8, embedded=False, informed=True)(SizedTokens(x_BND, size_BN), received_BN)
    found_BNN = near.to(near)
    unit_BND = unit_length(x_BND)
    cosine_BNN = unit_BND @ unit_BND.transpose(1, 2)
    little, small = 1 / received_BN, 1 / size_BN
    u_BN, v_BN = little / little.amax(dim=1, keepdim=True), small / small.amax(dim=1, keepdim=True)
    pairs = [one[:, :, None] * one[:, None, :] for one in (u_BN, v_BN)]
    attraction_BNN = ((cosine_BNN + 1) / 2) * pairs[0] ** (1 / 20) * pairs[1] ** (1 / 40)
    # Up to a factor for each image, which no comparison sees.
    difference_BNN = found_BNN - attraction_BNN.log()
    torch.testing.assert_close(difference_BNN, difference_BNN[:, :1, :1].expand_as(difference_BNN), rtol=0, atol=1e-4)


def test_merging_reads_the_attention_of_the_block_that_patches_enter():
    dense = make_dense("vit")
    model = slim("merge", dense, knobs=SEVERAL).model
    block, entered, left = passes(model, images(), InformedMergingBlock)[0]
    assert entered.size_BN is None
    maps_BHNN = attention_maps(block.attn, block.norm1(entered.x_BND))
    received_BN = maps_BHNN.mean(dim=(1, 2))
    groups = block.merge.groups(entered, received_BN)
    merged = groups.merge(entered)
    expected = block_rows(block, entered.x_BND, groups.rows, None, merged.x_BND)
    torch.testing.assert_close(left.x_BND, expected, rtol=1e-4, atol=1e-5)
    # Each group is the mean of its members, weighted by attention times size.
    map_BKN = block.token_map(entered)
    torch.testing.assert_close(map_BKN @ entered.x_BND, merged.x_BND, rtol=1e-4, atol=1e-5)
    share_BKN = (map_BKN > 0) * received_BN[:, None, :]
    wanted = share_BKN / share_BKN.sum(dim=2, keepdim=True)
    torch.testing.assert_close(map_BKN[:, 1:], wanted[:, 1:], rtol=1e-3, atol=1e-5)


def test_without_merging_a_model_is_the_dense_one_and_counts_are_planned_again_afterwards():
    dense = make_dense("vit")
    model = slim("merge", dense).model
    before = logits(model, images())
    planned = {
        index: stage.block.merge.selector.tokens
        for index, stage in enumerate(model.blocks.stages)
        if hasattr(stage.block, "merge")
    }
    assert eased_counts(model, 1.0) == planned
    assert eased_counts(model, 0.0) == dict.fromkeys(planned, 65)
    with other_counts(model, eased_counts(model, 0.0)):
        torch.testing.assert_close(logits(model, images()), logits(dense.module, images()), rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(model, images()), before)


@torch.no_grad()
def second_passes(batch: LazyDistillationBatch) -> list[Tensor]:
    """For each share of the merging that may be drawn, the task's loss with it, and the squared difference to what the head reads then."""
    student = batch.student
    with read_by_head(student) as read_BD:
        student(batch.images_B3HW)
        found = []
        for share in SHARES:
            with other_counts(student, eased_counts(student, share)):
                task = batch.task_loss_of(logits_of(student(batch.images_B3HW)))
            found.append(torch.stack((task, (read_BD[0] - read_BD[-1]).square().mean())))
    return found


@pytest.mark.parametrize("knobs", [{}, LEARNED, SEVERAL])
def test_consistency_compares_two_numbers_of_merged_patches(knobs: Knobs):
    dense = make_dense("distilled")
    finished = slim("merge", dense, knobs={**knobs, "consistency": 2.0})
    model = finished.model.train()
    results = []
    expected = second_passes(batch_of(model, dense.module, dense.shape))
    for saving in (False, True):
        student = copy.deepcopy(model)
        student.set_grad_checkpointing(saving)
        batch = batch_of(student, dense.module, dense.shape)
        losses = METHOD.finetune_loss(finished.knobs, batch)
        assert losses["consistency"] > 0
        second = torch.stack((losses["loss"] - batch.task_loss - 2 * losses["consistency"], losses["consistency"])).detach()
        assert min(float((second - other).abs().max()) for other in expected) < 1e-5
        losses["loss"].backward()
        results.append({name: p.grad for name, p in student.named_parameters() if p.requires_grad})
    # A pass that is computed again for its gradient has the counts that it had.
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient, rtol=1e-5, atol=1e-6)
    assert "consistency" not in METHOD.finetune_loss(
        {**finished.knobs, "consistency": 0.0}, batch_of(model, dense.module, dense.shape)
    )


def test_what_is_read_with_fewer_merged_patches_is_a_target_and_learns_the_task_alone():
    dense = make_dense("vit")
    finished = slim("merge", dense, knobs={"consistency": 1.0})
    read: list[Tensor] = []
    gradients: list[Tensor] = []

    def note(head: nn.Module, inputs: tuple[Tensor]) -> None:
        read.append(inputs[0])
        inputs[0].retain_grad()

    finished.model.get_classifier().register_forward_pre_hook(note)
    batch = batch_of(finished.model, dense.module, dense.shape)
    losses = METHOD.finetune_loss(finished.knobs, batch)
    (losses["loss"] - losses["consistency"]).backward(retain_graph=True)
    gradients += [one.grad.clone() for one in read if one.grad is not None]
    losses["consistency"].backward()
    many_BD, few_BD = read
    assert len(gradients) == 2 and torch.equal(few_BD.grad, gradients[1])
    expected_BD = 2 * (many_BD - few_BD) / many_BD.numel()
    torch.testing.assert_close(many_BD.grad - gradients[0], expected_BD, rtol=1e-4, atol=1e-7)


def test_the_share_of_merging_changes_from_step_to_step_and_depends_on_the_step_alone():
    dense = make_dense("vit")
    finished = slim("merge", dense, knobs={"consistency": 1.0})

    def error(progress: float) -> float:
        batch = batch_of(finished.model, dense.module, dense.shape)
        batch.progress = progress
        return float(METHOD.finetune_loss(finished.knobs, batch)["consistency"].detach())

    assert error(0.25) == error(0.25)
    assert len({error(step / 10) for step in range(10)}) > 2


def test_options_are_off_by_default_and_in_recipes_that_are_older():
    shape = make_dense("vit").shape
    knobs = METHOD.repair(shape, {})
    assert (knobs["criteria"], knobs["embedding"], knobs["consistency"]) == ("likeness", "none", 0.0)
    older = {name: value for name, value in knobs.items() if name not in ("criteria", "embedding", "consistency")}
    assert METHOD.repair(shape, older) == knobs
    built = METHOD.build(make_dense("vit").module, shape, METHOD.expect(shape, Plan.dense(shape), knobs), older)
    assert {type(block.merge) for block in merging_blocks(built)} == {MergeInto}
    assert METHOD.train_share(knobs) == 0
    assert METHOD.train_share(METHOD.repair(shape, LEARNED)) == 0.2
    assert "softness" not in knobs
    fixed = METHOD.repair(shape, {**LEARNED, "places": "fixed", "consistency": 1.0})
    assert not {"embedding", "train_share", "consistency"} & set(fixed)


def test_models_that_an_option_cannot_handle_are_refused_by_name():
    shape = make_dense("vit").shape
    for changes, knobs, message in (
        ({"qk_norm": True}, SEVERAL, "merge with criteria 'several' cannot price the queries"),
        ({"pool": "max"}, LEARNED, "merge with embedding 'learned' needs pooling 'token' or 'avg'; this model's is 'max'"),
        ({"classifiers": 0}, LEARNED, "merge with embedding 'learned' needs a classifier"),
        ({"classifiers": 0}, {"consistency": 1.0}, "merge with consistency above 0 needs a classifier"),
    ):
        with pytest.raises(UnsupportedModelError, match=message):
            METHOD.repair(shape.replace(**changes), knobs)
