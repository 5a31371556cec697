"""The paper's own claims (arXiv 2201.00814), and where ours is different on purpose."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from timm.layers import Attention, Mlp
from tiny import attached, brief_of, finish, images, logits, make_dense, share_of_dense, slim, solved_knobs
from torch import Tensor, nn
from torch.nn import functional

from autoslim.flops import predict
from autoslim.methods import METHODS, evaluate
from autoslim.methods.trunk import blocks_of
from autoslim.methods.vit_slim import L1_WEIGHTS, _unit_costs, ranking, widths_within
from autoslim.methods.width import gate_block, narrow_attention, narrow_mlp
from autoslim.plan import Plan

METHOD = METHODS["vit_slim"]


@pytest.fixture
def attention() -> Attention:
    torch.manual_seed(0)
    layer = Attention(12, num_heads=3, attn_head_dim=8, qkv_bias=True).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


@pytest.fixture
def mlp() -> Mlp:
    torch.manual_seed(0)
    layer = Mlp(12, 20).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


def masked(attention: Attention, x_BND: Tensor, zeta_HK: Tensor) -> Tensor:
    """As the paper writes it: the mask multiplies q, k and v behind the bias, and the scale stays that of the whole head."""
    batch, tokens, _ = x_BND.shape
    qkv = attention.qkv(x_BND).view(batch, tokens, 3, attention.num_heads, attention.head_dim) * zeta_HK
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    out = (q @ k.mT / math.sqrt(attention.head_dim)).softmax(-1) @ v
    return attention.proj(out.transpose(1, 2).flatten(2))


def tokens() -> Tensor:
    return torch.randn(2, 7, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def zeta(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("fused", [True, False])
def test_gates_are_one_mask_on_queries_keys_and_values(fused: bool):
    block = copy.deepcopy(make_dense().module.double().blocks[0])
    block.attn.fused_attn = fused
    zeta_HK, zeta_F = gate_block(block)
    zeta_HK.data.copy_(zeta(3, 16))
    zeta_F.data.copy_(zeta(192))
    x_BND = torch.randn(2, 17, 48, dtype=torch.float64)
    plain = make_dense().module.double().blocks[0]
    torch.testing.assert_close(block.attn(x_BND), masked(plain.attn, x_BND, zeta_HK), rtol=0, atol=1e-12)
    expected = plain.mlp.fc2(functional.gelu(plain.mlp.fc1(x_BND)) * zeta_F)
    torch.testing.assert_close(block.mlp(x_BND), expected, rtol=0, atol=1e-12)


def test_masks_start_at_one_and_are_one_parameter_a_layer():
    dense = make_dense()
    student = METHOD.attach(copy.deepcopy(dense.module), brief_of(dense.shape, METHOD.repair(dense.shape, {})), images())
    masks = {name: p for name, p in student.named_parameters() if "zeta" in name}
    assert len(masks) == 2 * dense.shape.depth
    assert all(torch.equal(p, torch.ones_like(p)) for p in masks.values())
    assert torch.equal(logits(student.eval(), images()), logits(dense.module, images()))


@pytest.mark.parametrize("kept", [1, 5, 8])
def test_cutting_a_head_is_masking_it(attention: Attention, kept: int):
    zeta_HK = zeta(3, 8)
    kept_HK = torch.stack([torch.randperm(8)[:kept].sort().values for _ in range(3)])
    narrow = narrow_attention(attention, kept_HK, zeta_HK.gather(1, kept_HK))
    alive_HK = torch.zeros(3, 8, dtype=torch.float64).scatter(1, kept_HK, zeta_HK.gather(1, kept_HK))
    assert (narrow.head_dim, narrow.num_heads) == (kept, 3)
    torch.testing.assert_close(narrow(tokens()), masked(attention, tokens(), alive_HK), rtol=0, atol=1e-12)


def test_without_folding_the_softmax_scale_a_cut_head_is_wrong(attention: Attention):
    kept_HK = torch.arange(3).expand(3, 3)
    narrow = narrow_attention(attention, kept_HK, torch.ones(3, 3, dtype=torch.float64))
    alive_HK = torch.zeros(3, 8, dtype=torch.float64).scatter(1, kept_HK, 1.0)
    expected = masked(attention, tokens(), alive_HK)
    torch.testing.assert_close(narrow(tokens()), expected, rtol=0, atol=1e-12)
    rows = slice(0, 9)
    narrow.qkv.weight.data[rows] /= math.sqrt(3 / 8)
    narrow.qkv.bias.data[rows] /= math.sqrt(3 / 8)
    assert (narrow(tokens()) - expected).abs().max() > 1e-2


@pytest.mark.parametrize("kept", [1, 7, 20])
def test_cutting_hidden_units_is_masking_them(mlp: Mlp, kept: int):
    zeta_F = zeta(20)
    kept_F = torch.randperm(20)[:kept].sort().values
    alive_F = torch.zeros(20, dtype=torch.float64).scatter(0, kept_F, zeta_F[kept_F])
    expected = mlp.fc2(functional.gelu(mlp.fc1(tokens())) * alive_F)
    torch.testing.assert_close(narrow_mlp(mlp, kept_F, zeta_F[kept_F])(tokens()), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_biases_are_cut_where_there_are_any(bias: bool):
    dense = make_dense("deit", qkv_bias=bias)
    finished = slim("vit_slim", dense)
    assert all((block.attn.qkv.bias is not None) == bias for block in blocks_of(finished.model))


@dataclasses.dataclass
class Graded:
    """A lesson whose task loss is known."""

    student: nn.Module
    task_loss: torch.Tensor = dataclasses.field(default_factory=lambda: torch.tensor(1.25))


def test_loss_is_equation_one():
    """Task + w1 |zeta of attention|_1 + w2 |zeta of MLP|_1."""
    dense = make_dense()
    for name, (w1, w2) in L1_WEIGHTS.items():
        knobs = METHOD.repair(dense.shape, {"l1": name})
        student = attached("vit_slim", dense, knobs)
        masks = {n: p.detach() for n, p in student.named_parameters() if "zeta" in n}
        attention = sum(float(p.abs().sum()) for n, p in masks.items() if ".attn." in n)
        mlp = sum(float(p.abs().sum()) for n, p in masks.items() if ".mlp." in n)
        curves = {key: float(value.detach()) for key, value in METHOD.loss(knobs, Graded(student=student)).items()}
        assert curves["loss"] == pytest.approx(1.25 + w1 * attention + w2 * mlp, rel=1e-5)
        assert (curves["l1_attention"], curves["l1_mlp"]) == pytest.approx((attention, mlp), rel=1e-5)


def test_the_papers_weights_are_its_optimum():
    assert L1_WEIGHTS["paper"] == (2e-4, 5e-5)


def test_flops_are_linear_in_the_kept_widths_wherever_they_are():
    """MACs = embedding + head + L N C^2 (4 a + 8 m) + 2 L N^2 C a, for kept shares a and m."""
    shape = make_dense("vit").shape
    dense = Plan.dense(shape)

    def matmuls(heads: list[int], hidden: list[int]) -> int:
        blocks = (b.replace(head_width=h, hidden=f) for b, h, f in zip(dense.blocks, heads, hidden, strict=True))
        return predict(shape, Plan(blocks=tuple(blocks))).matmuls

    n, c, layers = shape.tokens, shape.dim, shape.depth
    fixed = shape.patches * shape.patch_inputs * c + c * shape.classes
    for a, m in ((4, 48), (8, 96), (12, 144), (16, 192)):
        expected = fixed + layers * n * c * c * (4 * a / 16 + 8 * m / 192) + 2 * layers * n * n * c * a / 16
        assert matmuls([a] * 4, [m] * 4) == expected
    assert matmuls([1, 15, 3, 13], [10, 20, 30, 132]) == matmuls([8] * 4, [48] * 4)


def order(masks: list[tuple[Tensor, Tensor]], power: float = 0.0, costs: tuple[int, int] = (30, 10)) -> list[tuple[int, str]]:
    return [(unit.block, unit.part) for unit in ranking(masks, [costs] * len(masks), power)]


def test_ranking_is_by_signed_value():
    """A strongly negative mask goes first, as in the paper's code, not last as by its absolute value."""
    masks = [(torch.tensor([[0.9, -5.0]]), torch.tensor([0.1, -9.0, 0.5]))]
    assert [part for _, part in order(masks)] == ["attention", "mlp", "mlp", "attention", "mlp"]


def test_ranking_is_one_over_all_layers_and_parts():
    masks = [(torch.tensor([[3.0, 1.0]]), torch.tensor([2.0])), (torch.tensor([[2.5, 0.5]]), torch.tensor([4.0]))]
    assert order(masks) == [(1, "mlp"), (0, "attention"), (1, "attention"), (0, "mlp"), (0, "attention"), (1, "attention")]


def test_cost_power_turns_the_ranking_against_what_costs_more():
    masks = [(torch.tensor([[0.7]]), torch.tensor([0.6])), (torch.tensor([[1.0]]), torch.tensor([1.0]))]
    assert [part for block, part in order(masks, 0.0) if block == 0] == ["attention", "mlp"]
    assert [part for block, part in order(masks, 1.0) if block == 0] == ["mlp", "attention"]


def test_a_head_dimension_counts_the_mean_over_the_heads_in_falling_order():
    masks = [(torch.tensor([[0.1, 0.9], [0.7, 0.3]]), torch.tensor([0.75, 0.25]))]
    assert [part for _, part in order(masks, costs=(20, 10))] == ["attention", "mlp", "mlp", "attention"]


def test_a_dearer_budget_keeps_whatever_a_cheaper_one_kept():
    shape = make_dense("vit").shape
    plan = Plan.dense(shape)
    generator = torch.Generator().manual_seed(1)
    masks = [(torch.rand(3, 16, generator=generator), torch.rand(192, generator=generator)) for _ in plan.blocks]
    units = ranking(masks, [_unit_costs(shape, block) for block in plan.blocks], 0.5)
    totals = []
    for share in (0.3, 0.5, 0.7, 0.9, 1.0):
        totals.append(predict(shape, widths_within(shape, plan, units, share_of_dense(shape, share))).total)
        # The threshold is a prefix of the ranking; only the last few units may come from behind it.
        kept = sum(b.head_width + b.hidden for b in widths_within(shape, plan, units, share_of_dense(shape, share)).blocks)
        assert kept > 0
    assert totals == sorted(totals)
    assert widths_within(shape, plan, units, predict(shape, plan).total) == plan


def test_units_of_small_masks_go_first():
    dense = make_dense()
    knobs = solved_knobs("vit_slim", dense.shape)
    student = attached("vit_slim", dense, knobs)
    masks = [(b.attn.norm.zeta, b.mlp.norm.zeta) for b in blocks_of(student)]
    with torch.no_grad():
        masks[1][1][50:] = -1.0
        masks[2][0][:, 4:] = -1.0
    finished = finish("vit_slim", student, dense.shape, knobs)
    assert finished.plan.blocks[1].hidden <= 50
    assert finished.plan.blocks[2].head_width <= 4
    assert finished.plan.blocks[0].hidden > 50


def test_heads_of_a_layer_are_equally_wide_and_keep_their_own_best():
    dense = make_dense()
    knobs = solved_knobs("vit_slim", dense.shape)
    student = attached("vit_slim", dense, knobs)
    before = copy.deepcopy(student)
    finished = finish("vit_slim", student, dense.shape, knobs)
    for was, now, plan in zip(blocks_of(before), blocks_of(finished.model), finished.plan.blocks, strict=True):
        assert (now.attn.num_heads, now.attn.head_dim) == (3, plan.head_width)
        assert now.attn.qkv.weight.shape == (3 * 3 * plan.head_width, 48)
        assert now.mlp.fc1.weight.shape == (plan.hidden, 48)
        zeta_HK = was.attn.norm.zeta.detach()
        best_HK = zeta_HK.sort(1, descending=True).indices[:, : plan.head_width].sort(1).values
        rows = (best_HK + 16 * torch.arange(3)[:, None]).flatten()
        assert torch.equal(now.attn.proj.weight, was.attn.proj.weight[:, rows])


def test_every_layer_keeps_at_least_one_of_everything():
    dense = make_dense()
    knobs = METHOD.repair(dense.shape, {"keep": 0.02})
    student = attached("vit_slim", dense, knobs)
    with torch.no_grad():
        for block in blocks_of(student)[:2]:
            block.attn.norm.zeta.fill_(-3.0)
            block.mlp.norm.zeta.fill_(-3.0)
    finished = finish("vit_slim", student, dense.shape, knobs, 0.3)
    assert [(b.head_width, b.hidden) for b in finished.plan.blocks[:2]] == [(1, 1), (1, 1)]
    assert torch.isfinite(logits(finished.model, images())).all()


def test_keep_is_a_share_of_every_width_and_never_nothing():
    shape = make_dense().shape
    for keep, (head, hidden) in {1.0: (16, 192), 0.5: (8, 96), 0.02: (1, 3)}.items():
        blocks = evaluate(METHOD, shape, Plan.dense(shape), {"keep": keep}).plan.blocks
        assert {(b.head_width, b.hidden) for b in blocks} == {(head, hidden)}


def test_every_weight_is_trained_along_with_the_masks():
    dense = make_dense()
    student = METHOD.attach(copy.deepcopy(dense.module), brief_of(dense.shape, METHOD.repair(dense.shape, {})), images())
    assert all(p.requires_grad for p in student.parameters())
    assert METHOD.learning_rates(student, METHOD.repair(dense.shape, {"mask_lr": 7.0})) == {"zeta": 7.0}
