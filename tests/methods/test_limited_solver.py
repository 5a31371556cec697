"""The solver under more than one limit: what it finds keeps all of them, and one of them is filled."""

from __future__ import annotations

import pytest
import torch
from helpers.examples import examples
from helpers.tiny import make_dense, share_of_dense, slim
from hypothesis import given, settings
from hypothesis import strategies as st

from autoslim.core.constraints import CostLimits
from autoslim.core.plan import Plan
from autoslim.cost import predict, predict_params
from autoslim.errors import InfeasibleError
from autoslim.methods import METHODS, Constraints, StepContext, binding, narrowing, narrows, solve
from autoslim.methods.unit_removal.budget_pruning import prune_to_budget
from autoslim.methods.vit_slim.mask_ranking import RankingOptions, rank_removals
from autoslim.methods.vit_slim.mask_search import Masks

DENSE = make_dense("deit")
SHAPE, PLAN = DENSE.shape, Plan.dense(DENSE.shape)
PARAMS = SHAPE.params


def rise(plan: Plan) -> float:
    """A latency in which tokens and widths count, as any table says."""
    return sum(
        0.1 + b.tokens_kv * 0.01 + b.attention_width * b.tokens_q * 2e-4 + b.hidden * b.tokens_mlp * 1e-4 for b in plan.blocks
    )


FULL = rise(PLAN)


@settings(max_examples=examples(40), deadline=None)
@given(
    method=st.sampled_from(list(METHODS)),
    share=st.floats(0.5, 1.0),
    latency=st.floats(0.55, 1.0),
)
def test_what_is_solved_keeps_every_limit_and_fills_one(method: str, share: float, latency: float):
    budget = share_of_dense(SHAPE, share)
    constraints = Constraints(limits=CostLimits(latency_ms=latency * FULL), timer=rise)
    solved = solve(METHODS[method], SHAPE, PLAN, {}, budget, constraints=constraints)
    shares = {"flops": solved.flops / budget, **constraints.shares(SHAPE, solved.plan)}
    assert max(shares.values()) <= 1
    assert binding(SHAPE, solved.plan, budget, constraints) == max(shares, key=lambda name: shares[name])
    # One patch of this model is worth some per cent, and a width unit stands in all blocks. Nothing fills a limit that needs more than the
    # method ever keeps: Patch Slimming's last block has the query of the class token alone.
    everything = [(block.tokens_kv, block.heads, block.head_width, block.hidden) for block in PLAN.blocks]
    kept = [(block.tokens_kv, block.heads, block.head_width, block.hidden) for block in solved.plan.blocks]
    assert max(shares.values()) > 0.9 or kept == everything


NARROWING = ("vit_slim", "width")


@pytest.mark.parametrize("method", NARROWING)
@pytest.mark.parametrize("share", [0.4, 0.6, 0.9])
def test_parameters_are_filled_by_the_method_that_can_take_them(method: str, share: float):
    constraints = Constraints(limits=CostLimits(params=int(share * PARAMS)))
    solved = solve(METHODS[method], SHAPE, PLAN, {}, share_of_dense(SHAPE, 1.0), constraints=constraints)
    assert 0.97 * share * PARAMS < predict_params(SHAPE, solved.plan) <= share * PARAMS
    assert binding(SHAPE, solved.plan, share_of_dense(SHAPE, 1.0), constraints) == "params"


@pytest.mark.parametrize("method", [name for name in METHODS if name not in NARROWING])
def test_a_method_that_takes_tokens_away_cannot_keep_a_limit_on_parameters(method: str):
    with pytest.raises(InfeasibleError, match=rf"{method}: this recipe's cheapest form takes too much: .* parameters of"):
        solve(
            METHODS[method],
            SHAPE,
            PLAN,
            {},
            share_of_dense(SHAPE, 1.0),
            constraints=Constraints(limits=CostLimits(params=PARAMS // 2)),
        )
    assert not narrows(METHODS[method], SHAPE, PLAN)


def test_the_methods_that_can_take_parameters_are_known():
    assert narrowing(SHAPE) == list(NARROWING)


@pytest.mark.parametrize("limits", [CostLimits(params=int(0.55 * PARAMS)), CostLimits(latency_ms=0.6 * FULL)])
@pytest.mark.parametrize("patches", ["stay", "down"])
def test_the_last_cut_on_the_real_ranking_keeps_every_limit_and_fills_one(limits: CostLimits, patches: str):
    generator = torch.Generator().manual_seed(3)
    masks = [
        Masks(
            head_HK=torch.rand(SHAPE.heads, SHAPE.head_width, generator=generator),
            hidden_F=torch.rand(SHAPE.hidden, generator=generator),
            patch_P=torch.rand(SHAPE.patches, generator=generator),
        )
        for _ in range(SHAPE.depth)
    ]
    terms = RankingOptions(
        rule="fall",
        l1=(2e-4, 2e-4, 3e-3),
        cost_power=0.5,
        width_multiple=1,
        whole="none",
        nesting="down",
        removable=(1.0, 1.0, 0.0 if patches == "stay" else 1.0),
        patch_share=0.0,
    )
    budget, constraints = share_of_dense(SHAPE, 1.0), Constraints(limits=limits, timer=rise)
    row = rank_removals(masks, SHAPE, PLAN, PLAN, terms, budget)
    _, plan = prune_to_budget(SHAPE, PLAN, row, budget, constraints)
    assert constraints.fits(SHAPE, plan)
    assert max(constraints.shares(SHAPE, plan).values()) > 0.99
    with pytest.raises(InfeasibleError, match="the narrowest model takes too much"):
        prune_to_budget(SHAPE, PLAN, row, budget, Constraints(limits=CostLimits(params=1, latency_ms=1e-3), timer=rise))


def test_a_finished_model_keeps_the_limit_that_it_was_cut_under(monkeypatch: pytest.MonkeyPatch):
    from helpers import tiny

    constraints = Constraints(limits=CostLimits(params=int(0.7 * PARAMS)))
    context_of = tiny.context_of

    def limited(*args: object, **changes: object) -> StepContext:
        import dataclasses

        return dataclasses.replace(context_of(*args, **changes), constraints=constraints)  # type: ignore[arg-type]

    monkeypatch.setattr(tiny, "context_of", limited)
    finished = slim("vit_slim", DENSE, share=0.95)
    have = sum(p.numel() for p in finished.model.parameters())
    assert 0.69 * PARAMS < have == predict_params(SHAPE, finished.plan) <= 0.7 * PARAMS
    assert predict(SHAPE, finished.plan).total <= share_of_dense(SHAPE, 0.95)
