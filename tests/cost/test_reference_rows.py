"""FLOPs and parameters that others published, computed from plans written down by hand.

The papers count multiply-accumulates of matrix products and leave norms out: `Flops.matmuls`, unless a row says otherwise.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import pytest
import timm
import torch

from autoslim.core.plan import Plan
from autoslim.core.shape import ViTShape
from autoslim.cost import predict, predict_params
from autoslim.cost.flops import LAYER_NORM
from autoslim.methods import METHODS
from autoslim.models import read_shape

SIZES = {size: f"deit_{size}_patch16_224" for size in ("tiny", "small", "base")}


@functools.cache
def shape_of(name: str) -> ViTShape:
    with torch.device("meta"):
        return read_shape(timm.create_model(SIZES.get(name, name)))


def giga(shape: ViTShape, plan: Plan | None = None) -> float:
    return predict(shape, plan or Plan.dense(shape)).matmuls / 1e9


def dropped(shape: ViTShape, attention: Sequence[int], mlp: Sequence[int]) -> Plan:
    """`attention[l]` tokens in block l's attention and `mlp[l]` behind it."""
    blocks = (
        block.replace(tokens_kv=a, tokens_q=a, tokens_mlp=m)
        for block, a, m in zip(Plan.dense(shape).blocks, attention, mlp, strict=True)
    )
    plan = Plan(blocks=tuple(blocks))
    plan.check(shape)
    return plan


def between(shape: ViTShape, drops: dict[int, int]) -> Plan:
    """Drops between attention and MLP, as EViT does: `drops[l]` tokens from block l's MLP on."""
    after = [shape.tokens]
    for index in range(shape.depth):
        after.append(drops.get(index, after[-1]))
    return dropped(shape, after[:-1], after[1:])


def before(shape: ViTShape, drops: dict[int, int]) -> Plan:
    """Drops in front of a block: `drops[l]` tokens from block l on."""
    tokens = [shape.tokens]
    for index in range(shape.depth):
        tokens.append(drops.get(index, tokens[-1]))
    return dropped(shape, tokens[1:], tokens[1:])


def rounds_to(value: float, published: float, digits: int) -> bool:
    return abs(value - published) <= 0.5 * 10**-digits + 1e-9


# Row 1. DeiT, Table 5 (arXiv 2012.12877): 1.3, 4.6 and 17.6 G; MCTF's README: 1.26 and 4.61 G with norms.
@pytest.mark.parametrize(("size", "published", "exact"), [("tiny", 1.3, 1.254), ("small", 4.6, 4.599), ("base", 17.6, 17.564)])
def test_dense_deit(size: str, published: float, exact: float):
    shape = shape_of(size)
    assert rounds_to(giga(shape), published, 1)
    assert rounds_to(giga(shape), exact, 3)


@pytest.mark.parametrize(("size", "published"), [("tiny", 1.26), ("small", 4.61)])
def test_dense_deit_with_norms(size: str, published: float):
    assert rounds_to(predict(shape_of(size), Plan.dense(shape_of(size))).total / 1e9, published, 2)


# Row 2. DiffRate's README and its JSON of 2.9 G for DeiT-S: 2.905 G.
def test_diffrate_deit_small():
    after = [197, 194, 176, 156, 141, 133, 121, 107, 88, 64, 56, 3]
    shape = shape_of("small")
    assert abs(giga(shape, dropped(shape, [197, *after[:-1]], after)) - 2.905) <= 0.001


def evit_counts(keep: float) -> list[int]:
    counts, tokens = [], 197
    for _ in range(3):
        tokens = math.ceil(keep * (tokens - 1) - 1e-9) + 1
        counts.append(tokens)
    return counts


# Row 5. EViT's README, DeiT-S without fusion, drops in blocks 3, 6 and 9; its 3.5 G at keep rate 0.8 is 3.44 by this count.
@pytest.mark.parametrize(
    ("keep", "published", "tolerance"), [(0.9, 4.0, 0.05), (0.8, 3.5, 0.06), (0.7, 3.0, 0.05), (0.6, 2.6, 0.05), (0.5, 2.3, 0.05)]
)
def test_evit_deit_small_without_fusion(keep: float, published: float, tolerance: float):
    shape = shape_of("small")
    plan = between(shape, dict(zip((3, 6, 9), evit_counts(keep), strict=True)))
    assert abs(giga(shape, plan) - published) <= tolerance


def test_evit_counts_are_those_of_its_code():
    assert evit_counts(0.9) == [178, 161, 145]
    assert evit_counts(0.5) == [99, 50, 26]


FUSED = {0.9: (179, 163, 148), 0.8: (159, 129, 105), 0.7: (140, 100, 72), 0.6: (120, 74, 46), 0.5: (100, 52, 28)}


# Row 6. EViT's README, DeiT-S with the fused token.
@pytest.mark.parametrize(("keep", "published"), [(0.9, 4.0), (0.8, 3.5), (0.7, 3.0), (0.6, 2.6), (0.5, 2.3)])
def test_evit_deit_small_with_fusion(keep: float, published: float):
    shape = shape_of("small")
    assert rounds_to(giga(shape, between(shape, dict(zip((3, 6, 9), FUSED[keep], strict=True)))), published, 1)


# Row 7. SAViT, Table 2: EViT on DeiT-B at 0.7.
def test_evit_deit_base_with_fusion():
    shape = shape_of("base")
    assert rounds_to(giga(shape, between(shape, dict(zip((3, 6, 9), FUSED[0.7], strict=True)))), 11.6, 1)


# Row 8. DynamicViT's README, DeiT-S at 0.7: 2.9 G; its predictors, which are not in this plan, are 0.1 of it.
def test_dynamicvit_deit_small():
    shape = shape_of("small")
    plan = before(shape, {3: 138, 6: 97, 9: 68})
    assert abs(giga(shape, plan) - 2.9) <= 0.1
    assert rounds_to(giga(shape, plan), 2.878, 3)


# Row 14. ToMe's code, DeiT-S with r = 13: thirteen tokens merged between attention and MLP of every block; 2.7 G.
def test_tome_deit_small():
    shape = shape_of("small")
    counts = [197 - 13 * done for done in range(13)]
    assert rounds_to(giga(shape, dropped(shape, counts[:-1], counts[1:])), 2.7, 1)


def narrowed(shape: ViTShape, attention: float, mlp: float) -> Plan:
    """Shares of the head widths and hidden units, kept over all layers as nearly as whole numbers can."""

    def spread(width: int, share: float) -> list[int]:
        ends = [round(width * share * layer) for layer in range(shape.depth + 1)]
        return [after - before for before, after in itertools.pairwise(ends)]

    widths = zip(Plan.dense(shape).blocks, spread(shape.head_width, attention), spread(shape.hidden, mlp), strict=True)
    return Plan(blocks=tuple(block.replace(head_width=head, hidden=hidden) for block, head, hidden in widths))


def params_of(name: str, plan: Plan | None = None) -> int:
    with torch.device("meta"):
        model = timm.create_model(SIZES.get(name, name))
        if plan is not None:
            model = METHODS["vit_slim"].build(model, read_shape(model), plan, {})
    return sum(p.numel() for p in model.parameters())


# Row 15. ViT-Slim (arXiv 2201.00814), Table 4: DeiT-S, attention and MLP together. Its 3.3 G at 70 % is 3.24 by this count.
@pytest.mark.parametrize(
    ("share", "published", "millions"), [(0.8, 3.7, 17.7), (0.7, 3.3, 15.6), (0.6, 2.8, 13.5), (0.5, 2.3, 11.4)]
)
def test_vit_slim_deit_small_both(share: float, published: float, millions: float):
    shape = shape_of("small")
    plan = narrowed(shape, share, share)
    assert giga(shape, plan) == pytest.approx(published, rel=0.02)
    assert params_of("small", plan) / 1e6 == pytest.approx(millions, rel=0.02)


# Row 16. ViT-Slim, Table 2: DeiT-S, attention alone.
@pytest.mark.parametrize(
    ("share", "published", "millions"), [(0.7, 4.1, 19.9), (0.6, 3.9, 19.2), (0.5, 3.7, 18.5), (0.4, 3.5, 17.8)]
)
def test_vit_slim_deit_small_attention(share: float, published: float, millions: float):
    shape = shape_of("small")
    plan = narrowed(shape, share, 1.0)
    assert rounds_to(giga(shape, plan), published, 1)
    assert rounds_to(params_of("small", plan) / 1e6, millions, 1)


# ViT-Slim, Table 2: DeiT-S, MLPs alone.
@pytest.mark.parametrize(
    ("share", "published", "millions"), [(0.7, 3.8, 17.8), (0.6, 3.5, 16.4), (0.5, 3.2, 15.0), (0.4, 2.9, 13.5)]
)
def test_vit_slim_deit_small_mlp(share: float, published: float, millions: float):
    shape = shape_of("small")
    plan = narrowed(shape, 1.0, share)
    assert rounds_to(giga(shape, plan), published, 1)
    assert rounds_to(params_of("small", plan) / 1e6, millions, 1)


# ViT-Slim, Table 7: DeiT-B, attention and MLP at 60 %.
def test_vit_slim_deit_base_both():
    plan = narrowed(shape_of("base"), 0.6, 0.6)
    assert rounds_to(giga(shape_of("base"), plan), 10.6, 1)
    assert rounds_to(params_of("base", plan) / 1e6, 52.6, 1)


# Swin (arXiv 2103.14030), table 1: G and M parameters.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "published", "millions"),
    [
        ("swin_tiny_patch4_window7_224", 4.5, 29),
        ("swin_small_patch4_window7_224", 8.7, 50),
        ("swin_base_patch4_window7_224", 15.4, 88),
        ("swin_base_patch4_window12_384", 47.0, 88),
        ("swin_large_patch4_window7_224", 34.5, 197),
        ("swin_large_patch4_window12_384", 103.9, 197),
    ],
)
def test_swin_costs_what_its_paper_says(name: str, published: float, millions: int):
    assert giga(shape_of(name)) == pytest.approx(published, rel=0.005)
    # The paper rounds Swin-T's 28.3 M up.
    assert params_of(name) / 1e6 == pytest.approx(millions, abs=0.75)


# ViT-Slim, Table 7: Swin-T at 80 and 70 %. Its code for Swin is not released, and how much each layer keeps is not published. As in its
# rows of DeiT, the share is that of the units of attention and MLP; a stage keeps the less of them the deeper it is, because the same
# share everywhere costs less and leaves more parameters (3.65 G and 23.2 M at 80 %).
@pytest.mark.parametrize(
    ("share", "stages", "published", "millions"),
    [(0.8, (1.0, 0.95, 0.8, 0.73), 3.8, 22.3), (0.7, (0.95, 0.8, 0.73, 0.59), 3.4, 19.4)],
)
def test_vit_slim_swin_tiny_both(share: float, stages: tuple[float, ...], published: float, millions: float):
    shape = shape_of("swin_tiny_patch4_window7_224")
    of_block = [kept for kept, depth in zip(stages, (2, 2, 6, 2), strict=True) for _ in range(depth)]
    blocks = [
        block.replace(head_width=round(kept * block.head_width), hidden=round(kept * block.hidden))
        for block, kept in zip(Plan.dense(shape).blocks, of_block, strict=True)
    ]
    units = sum(block.attention_width + block.hidden for block in blocks)
    assert units / sum(own.attention_width + own.hidden for own in shape.blocks) == pytest.approx(share, abs=0.005)
    plan = Plan(blocks=tuple(blocks))
    assert rounds_to(giga(shape, plan), published, 1)
    assert predict_params(shape, plan) / 1e6 == pytest.approx(millions, abs=0.1)


# Row 19. Torch-Pruning's README: ViT-B/16 17.59 G; Isomorphic Pruning's: distilled DeiT-B 17.69 G, DeiT-S 4.6391 G.
@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("vit_base_patch16_224", 17.59),
        ("deit_base_distilled_patch16_224", 17.69),
        ("deit_small_distilled_patch16_224", 4.6391),
    ],
)
def test_torch_pruning_convention(name: str, published: float):
    """It adds biases, and 2 per element of a LayerNorm where fvcore adds 5."""
    shape = shape_of(name)
    flops = predict(shape, Plan.dense(shape))
    per_token = shape.depth * (3 * shape.dim + shape.dim + shape.hidden + shape.dim)
    biases = shape.tokens * per_token + shape.patches * shape.dim + shape.classifiers * shape.classes
    theirs = flops.matmuls + biases + flops.norms * 2 // LAYER_NORM
    assert theirs / 1e9 == pytest.approx(published, rel=0.001)


# Row 20. Isomorphic Pruning's README counts 22.4364 M parameters; the others are the models' own.
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("tiny", 5.717416),
        ("small", 22.050664),
        ("base", 86.567656),
        ("deit_small_distilled_patch16_224", 22.4364),
    ],
)
def test_parameters(name: str, millions: float):
    assert params_of(name) / 1e6 == pytest.approx(millions, abs=5e-5)


LIFE = {0.7: (140, 100, 72), 0.8: (159, 129, 105), 0.9: (179, 163, 148)}


# Rows 21 and 22. Life regression's code: drops in front of blocks 4, 7 and 10; nothing is published, the numbers follow from it.
@pytest.mark.parametrize(
    ("size", "keep", "matmuls"),
    [
        ("small", 0.7, 3.177),
        ("small", 0.8, 3.586),
        ("small", 0.9, 4.080),
        ("base", 0.7, 12.200),
        ("base", 0.8, 13.761),
        ("base", 0.9, 15.627),
        ("tiny", 0.7, 0.858),
    ],
)
def test_life_regression(size: str, keep: float, matmuls: float):
    shape = shape_of(size)
    assert rounds_to(giga(shape, before(shape, dict(zip((4, 7, 10), LIFE[keep], strict=True)))), matmuls, 3)


@pytest.mark.parametrize(("keep", "total"), [(0.7, 3.213), (0.8, 3.622), (0.9, 4.117)])
def test_life_regression_with_norms_and_the_predictor_of_its_code(keep: float, total: float):
    """The code computes W c once per patch; ours once per image, which is that much cheaper."""
    shape = shape_of("small")
    flops = predict(shape, before(shape, dict(zip((4, 7, 10), LIFE[keep], strict=True))))
    theirs = shape.patches * (shape.dim**2 + shape.dim) + LAYER_NORM * shape.tokens * shape.dim
    assert rounds_to((flops.total + theirs) / 1e9, total, 3)


# From the same sources: distilled DeiT has two more heads' and one more token's work, and DeiT-B at 384 is 55.5 G.
@pytest.mark.parametrize(("size", "matmuls"), [("tiny", 1.2610), ("small", 4.6241), ("base", 17.6568)])
def test_distilled_deit(size: str, matmuls: float):
    assert rounds_to(giga(shape_of(f"deit_{size}_distilled_patch16_224")), matmuls, 4)


def test_deit_base_at_384():
    assert rounds_to(giga(shape_of("deit_base_patch16_384")), 55.484, 3)
