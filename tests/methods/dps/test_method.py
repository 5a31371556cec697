"""DPS: what our selectors choose, what they learn from, and counts that differ from image to image (arXiv 2106.02852; mostly ours)."""

from __future__ import annotations

import copy
import dataclasses
import functools
from typing import Any

import pytest
import torch
from helpers.cifar10_vit import accuracy, real_images, real_model
from helpers.merged_tokens import check_merging
from helpers.selected_rows import check_rows_are_the_whole_blocks
from helpers.tiny import attach, attached, batch_of, context_of, images, logits, make_dense, prune, slim, solved_knobs
from torch import Tensor, nn
from torch.nn import functional

from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs, TrainingSettings
from autoslim.cost import count_flops, predict
from autoslim.errors import UnsupportedModelError
from autoslim.methods import METHODS
from autoslim.methods.dps.method import selectors_by_block, tokens_entering
from autoslim.methods.dps.scorer import ImpactScorer, KeepSelected, TaskScoredBlock, log_impact
from autoslim.methods.layers.adaptive_trunk import AdaptiveTrunk, TokenDropBlock
from autoslim.methods.layers.rectangular_block import class_query_last
from autoslim.methods.layers.token_counts import image_flops, token_counts
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.methods.patch_slimming.impact import find_masks, tokens_between_blocks
from autoslim.methods.patch_slimming.pyramid import pyramid
from autoslim.models import DenseModel, read_shape
from autoslim.models.placed_tokens import gather_tokens
from autoslim.training.batch import LazyDistillationBatch

METHOD = METHODS["dps"]

# For the contract suite.

KEEP_ALL = {"keep": 1.0, "class_query": False}
VARIANTS = {"merge": {"dead": "merge"}, "task": {"learn_from": "task"}}


def check_training_form_is_pruned_form(model: str, variant: str = "") -> None:
    dense = make_dense(model)
    dense.module.double()
    case = f"dps:{variant}" if variant else "dps"
    knobs = solved_knobs(case, dense.shape)
    student = attached(case, dense, knobs).double().eval()
    cut = prune(case, copy.deepcopy(student), dense.shape, knobs).model
    x = images(dtype=torch.float64)
    torch.testing.assert_close(logits(cut, x), logits(student, x), rtol=0, atol=1e-10)
    if variant == "merge":
        check_merging(cut, dense.module)
    else:
        check_rows_are_the_whole_blocks(cut, dense.module)


def selector_of(seed: int = 0, kind: str = "mlp", dim: int = 6, prefix: int = 2) -> ImpactScorer:
    torch.manual_seed(seed)
    scorer = ImpactScorer(dim, prefix, kind)
    for parameter in scorer.parameters():
        nn.init.normal_(parameter)
    return scorer


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_patches_of_the_highest_answers_stay_behind_the_prefix(kind: str):
    scorer = selector_of(kind=kind)
    x_BND = torch.randn(3, 11, 6)
    kept_BND = KeepSelected(scorer, 4)(x_BND)
    told_BP = scorer.of_tokens(x_BND)
    assert told_BP.shape == (3, 9)
    for image in range(3):
        best = sorted(range(9), key=lambda patch: -told_BP[image, patch].item())[:4]
        assert torch.equal(kept_BND[image], x_BND[image, [0, 1, *(2 + patch for patch in best)]])


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_selectors_answer_depends_on_its_own_patch_alone(kind: str):
    scorer = selector_of(kind=kind)
    x_BND = torch.randn(1, 11, 6)
    other_BND = x_BND.clone()
    other_BND[:, [0, 1, 5]] = torch.randn(3, 6)
    change_P = (scorer.of_tokens(other_BND) - scorer.of_tokens(x_BND))[0].abs()
    assert change_P.nonzero()[:, 0].tolist() == [3]


def test_least_squares_find_what_is_linear():
    x_BND = torch.randn(40, 11, 6)
    truth_BP = selector_of(3, kind="linear").of_tokens(x_BND).detach()
    scorer = selector_of(5, kind="linear")
    nn.init.ones_(scorer.norm.weight)
    scorer.start_from(x_BND, truth_BP)
    assert (scorer.of_tokens(x_BND) - truth_BP).square().mean() < 1e-4 * truth_BP.var()


def test_what_is_told_keeps_the_order_and_the_spread_of_concentrated_images():
    score_BP = torch.stack((torch.linspace(1, 2, 50), torch.linspace(1, 2, 50) ** 8))
    told_BP = log_impact(score_BP)
    assert (told_BP.diff(dim=1) > 0).all()
    torch.testing.assert_close(told_BP.mean(dim=1), torch.zeros(2), rtol=0, atol=1e-5)
    assert told_BP[1].std() > 4 * told_BP[0].std()


def test_different_images_keep_different_patches():
    finished = slim("dps", make_dense("vit"), steps=2)
    selectors = selectors_by_block(finished.model)
    seen = tokens_entering(finished.model, images(3), list(selectors))
    rows = [selectors[block].rows(x_BND) for block, x_BND in seen.items()]
    assert any(not torch.equal(rows_BK[0], rows_BK[1]) for rows_BK in rows)


def test_selectors_are_priced_where_patches_are_left_out_and_nowhere_else():
    dense = make_dense("vit")
    knobs = solved_knobs("dps", dense.shape)
    plan = METHOD.expect(dense.shape, Plan.dense(dense.shape), knobs)
    counts = pyramid(dense.shape, knobs)
    falling = [block for block, (before, count) in enumerate(zip([64, *counts], counts, strict=False)) if count < before]
    assert [extra.place for extra in plan.extras] == [f"block {block}" for block in falling] != []


def test_what_is_learned_is_the_chain_of_each_image_on_the_patches_that_are_there():
    """The loss against its parts written out."""
    dense = make_dense("vit")
    knobs = solved_knobs("dps", dense.shape, knobs={"counts": "pyramid"})
    student = attach("dps", dense, knobs)
    teacher = copy.deepcopy(dense.module).eval()
    batch = batch_of(student, teacher, dense.shape)
    found = METHOD.loss(knobs, batch)
    counts = pyramid(dense.shape, knobs)
    inputs = tokens_between_blocks(teacher, batch.images_B3HW)
    chain = find_masks(blocks_of(teacher), inputs, dense.shape, counts, paths=knobs["paths"], own=True)
    x_BND, place_BP, errors = inputs[0], torch.arange(64).expand(4, -1), []
    with torch.no_grad():
        for number, block in enumerate(blocks_of(student)):
            if number in selectors_by_block(student):
                selector = selectors_by_block(student)[number]
                told_BP = selector.scorer.of_tokens(x_BND)
                errors.append((told_BP - log_impact(chain.scores[number]).gather(1, place_BP)).square().mean())
                place_BP = place_BP.gather(1, selector.rows(x_BND)[:, 1:] - 1)
            x_BND = block(x_BND)
    assert found["loss"].item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-4)
    assert 0 < found["agreement"] <= 1


def test_only_selectors_learn_before_the_cut_and_never_after():
    dense = make_dense()
    knobs = solved_knobs("dps", dense.shape)
    student = attached("dps", dense, knobs)
    trained = [name for name, p in student.named_parameters() if p.requires_grad]
    assert trained
    assert all(".scorer." in name for name in trained)
    assert all(any(name.endswith(end) for end in METHOD.learning_rates(student, knobs)) for name in trained)
    finished = prune("dps", student, dense.shape, knobs)
    tuned = [name for name, p in finished.model.named_parameters() if p.requires_grad]
    assert tuned
    assert not any("scorer" in name for name in tuned)


# Counts that differ from image to image.


def adaptive(model: str = "vit", bound: str = "max", share: float = 0.6) -> tuple[Any, Any, Any]:
    """Dense model, what was finished and settled, and its brief."""
    dense = make_dense(model)
    knobs = solved_knobs("dps", dense.shape, share, {"adaptive": True})
    student = attach("dps", dense, knobs, share=share)
    context = context_of(dense.shape, knobs, share, bound=bound)
    with torch.no_grad():
        finished = METHOD.prune(student, context)
        finished.model.eval()
        context = dataclasses.replace(context, plan=finished.plan)
        METHOD.calibrate(finished.model, context, lambda: iter([images(64, seed=5), images(64, seed=6)]))
    return dense, finished, context


@pytest.mark.parametrize("model", ["vit", "distilled", "registers"])
def test_every_image_stays_within_the_budget_and_they_differ(model: str):
    dense, finished, context = adaptive(model)
    assert isinstance(finished.model.blocks, AdaptiveTrunk)
    assert all(isinstance(blocks_of(finished.model)[block], TokenDropBlock) for block, _ in finished.model.blocks.drops())
    counts_BL2 = token_counts(finished.model, images(48, seed=9))
    flops_B = image_flops(finished.model, dense.shape, finished.plan, counts_BL2)
    assert flops_B.max() <= context.budget
    assert len(flops_B.unique()) > 1
    assert count_flops(finished.model, 32) == predict(dense.shape, finished.plan).total <= context.budget


def test_a_budget_for_the_mean_is_met_by_the_mean_and_used():
    dense, finished, context = adaptive(bound="mean")
    flops_B = image_flops(finished.model, dense.shape, finished.plan, token_counts(finished.model, images(128, seed=5))).double()
    assert 0.93 * context.budget <= flops_B.mean() <= 1.02 * context.budget
    assert flops_B.max() > context.budget


def test_an_image_alone_is_computed_as_in_a_batch():
    _, finished, _ = adaptive()
    model, x = finished.model.double(), images(6, dtype=torch.float64)
    for image in range(6):
        torch.testing.assert_close(logits(model, x[image : image + 1]), logits(model, x)[image : image + 1], rtol=0, atol=1e-10)


def test_adaptive_structure_is_built_again():
    dense, finished, _ = adaptive()
    built = METHOD.build(copy.deepcopy(dense.module), dense.shape, finished.plan, finished.knobs).eval()
    built.load_state_dict(finished.model.state_dict(), strict=True)
    assert torch.equal(logits(built, images()), logits(finished.model, images()))
    query = class_query_last(copy.deepcopy(built), 1)
    torch.testing.assert_close(logits(query, images()), logits(built, images()), rtol=1e-4, atol=1e-5)


def test_adaptive_counts_are_refused_where_the_head_reads_patches():
    with pytest.raises(UnsupportedModelError, match=r"DPS with adaptive counts.*pooling 'token'"):
        METHOD.repair(make_dense("average").shape, {"adaptive": True})


# The trained model and real images.


@functools.cache
def trained_selectors(steps: int = 24) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    """The dense model, the model cut to half of its FLOPs with trained selectors, test images and labels."""
    dense, x, labels, shared = real_model()
    shape = read_shape(dense)
    # The defaults of version 0.1.0.
    knobs = solved_knobs("dps", shape, 0.5, {"counts": "pyramid", "paths": "residual", "class_query": False})
    context = context_of(shape, knobs, 0.5, shared=shared)
    torch.manual_seed(0)
    student = METHOD.attach(copy.deepcopy(dense), context, x[:1])
    optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=2e-3)
    own, _ = real_images("train", 64 * steps)
    for batch in own.split(64):
        optimizer.zero_grad()
        METHOD.loss(knobs, LazyDistillationBatch(student, dense, batch, torch.zeros(64, dtype=torch.long), TrainingSettings()))[
            "loss"
        ].backward()
        optimizer.step()
    with torch.no_grad():
        return dense, METHOD.prune(student, context).model.eval(), x, labels


class Shuffled(nn.Module):
    """A selector's answers, dealt to other patches of the same image."""

    def __init__(self, scorer: ImpactScorer) -> None:
        super().__init__()
        self.scorer, self.num_prefix_tokens = scorer, scorer.num_prefix_tokens

    def of_tokens(self, x_BND: Tensor) -> Tensor:
        told_BP = self.scorer.of_tokens(x_BND)
        return told_BP.gather(1, torch.rand(told_BP.shape).argsort(dim=1))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_shuffled_selectors_are_worse_on_the_trained_model():
    _, cut, x, labels = trained_selectors()
    shuffled = copy.deepcopy(cut)
    torch.manual_seed(0)
    for selector in selectors_by_block(shuffled).values():
        selector.scorer = Shuffled(selector.scorer)
    right, wrong = accuracy(cut, x, labels), accuracy(shuffled, x, labels)
    print(f"test top-1 straight after pruning to 50 %: {right:.4f}, selectors shuffled {wrong:.4f}")
    assert right > wrong


@torch.no_grad()
def left_out_losses(dense: nn.Module, x_BND: Tensor, block: int, answer: Tensor) -> Tensor:
    """Cross entropy of the dense model's own answers when each patch in turn is not computed by `block`: (B, P)."""
    losses = []
    blocks: Any = dense.blocks
    whole_BND = blocks[block](x_BND)
    for patch in range(1, x_BND.shape[1]):
        rows = torch.tensor([row for row in range(x_BND.shape[1]) if row != patch])
        left_BND = gather_tokens(whole_BND, rows)
        for later in blocks[block + 1 :]:
            left_BND = later(left_BND)
        told_BC = dense.forward_head(dense.norm(left_BND))  # type: ignore[operator]
        losses.append(functional.cross_entropy(told_BC, answer, reduction="none"))
    return torch.stack(losses, dim=1)


def spearman(one_BP: Tensor, other_BP: Tensor) -> Tensor:
    """Per image."""
    ranks = [values.argsort(dim=1).argsort(dim=1).double() for values in (one_BP, other_BP)]
    return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*ranks, strict=True)])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_selectors_rank_patches_in_line_with_the_loss_of_leaving_each_out():
    """Better than chance: four standard errors above 0, in every block that leaves patches out, on 64 images."""
    dense, cut, x, _ = trained_selectors()
    x = x[:64]
    inputs = tokens_between_blocks(dense, x)
    answer = logits(dense, x).softmax(dim=1)
    for block, selector in selectors_by_block(cut).items():
        with torch.no_grad():
            told_BP = selector.scorer.of_tokens(inputs[block])
        agreed_B = spearman(told_BP, left_out_losses(dense, inputs[block], block, answer))
        print(f"block {block}: Spearman {agreed_B.mean():.3f} +- {agreed_B.std() / 8:.3f}")
        assert agreed_B.mean() > 4 * agreed_B.std() / 8


def test_selectors_may_learn_from_the_tasks_loss():
    """The factor that lets them is 1: in training too, the model computes what it computes without."""
    dense = make_dense("vit")
    plain, taught = (slim("dps", dense, knobs={"counts": "pyramid", "learn_from": loss}).model for loss in ("impact", "task"))
    taught.load_state_dict(plain.state_dict())
    x = images()
    torch.testing.assert_close(taught.train()(x), plain.train()(x), rtol=0, atol=0)
    taught(x).square().sum().backward()
    plain(x).square().sum().backward()
    scorers = [name for name, _ in plain.named_parameters() if "scorer." in name]
    assert scorers
    assert all(plain.get_parameter(name).grad is None for name in scorers)
    assert all(taught.get_parameter(name).grad is not None for name in scorers)
    assert any(taught.get_parameter(name).grad.abs().max() > 0 for name in scorers)
    assert set(METHOD.finetune_rates(taught, taught_knobs(dense))) > {"scorer.linear.weight"}


def test_noise_lets_selectors_try_other_patches_in_training_alone():
    dense, knobs = make_dense("vit"), {"counts": "pyramid", "learn_from": "task"}
    plain, noisy = (slim("dps", dense, knobs={**knobs, "noise": noise}).model for noise in (0.0, 1.0))
    noisy.load_state_dict(plain.state_dict())
    x = images()
    assert torch.equal(logits(noisy, x), logits(plain, x))
    torch.manual_seed(0)
    tried = [logits(noisy.train(), x) for _ in range(2)]
    assert not torch.equal(*tried)
    noisy(x).square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for name, p in noisy.named_parameters() if "scorer." in name)
    assert "noise" not in METHOD.repair(dense.shape, {"learn_from": "impact"})


def taught_knobs(dense: DenseModel) -> Knobs:
    return METHOD.repair(dense.shape, {"counts": "pyramid", "learn_from": "task"})


def test_a_patch_that_should_count_more_gets_a_higher_score():
    dense = make_dense("vit")
    taught = slim("dps", dense, knobs={"counts": "pyramid", "learn_from": "task"}).model.train()
    block = next(part for part in taught.modules() if isinstance(part, TaskScoredBlock))
    x_BND = torch.randn(2, dense.shape.tokens, dense.shape.dim)
    score_BP = block.selector.scorer.of_tokens(x_BND)
    score_BP.retain_grad()
    block.selector.scorer.of_tokens = lambda x: score_BP  # type: ignore[method-assign]
    out_BQD = block(x_BND)
    # A loss that falls as the first selected patch of the first image counts more.
    (-out_BQD[0, 1].square().sum()).backward()
    best = int(score_BP[0].argmax())
    assert score_BP.grad is not None and score_BP.grad[0, best] < 0
    assert torch.count_nonzero(score_BP.grad) == 1
