from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from autoslim.core.result import Origin, Target
from autoslim.search.budget_allocation import Assignment, BudgetAllocator


def assign(number: int, feasible_methods: Mapping[str, Sequence[str]]) -> Assignment:
    return BudgetAllocator(feasible_methods=feasible_methods).assign(number)


FEASIBLE = {"70%": ["tokens", "width"], "50%": ["tokens", "width"], Target.FREE: ["tokens", "width"]}


def test_search_opens_with_a_control_per_budget_and_both_methods() -> None:
    dealt = [assign(number, FEASIBLE) for number in range(2)]
    assert [(d.target, d.origin, d.methods) for d in dealt] == [
        ("70%", Origin.CONTROL, ("tokens",)),
        ("50%", Origin.CONTROL, ("width",)),
    ]


def test_a_search_with_a_prior_opens_with_the_best_known_recipes_and_the_controls_in_turns() -> None:
    methods = FEASIBLE | {Target.FREE: ["other", "tokens", "width"]}
    allocator = BudgetAllocator(feasible_methods=methods, best_known=["tokens", "width", "other"])
    opening = [allocator.assign(number) for number in range(6)]
    assert [(one.target, one.methods, one.best_known) for one in opening if one.origin == Origin.SAMPLER] == [
        ("70%", ("tokens",), True),
        ("50%", ("width",), True),
        (Target.FREE, ("other",), True),
        ("70%", ("tokens", "width"), False),
    ]
    assert [number for number, one in enumerate(opening) if one.origin == Origin.CONTROL] == [1, 3]


def test_every_method_is_seen_once_before_the_sampler_chooses() -> None:
    methods = [f"m{index}" for index in range(5)]
    feasible_methods = {"70%": methods, "50%": methods, Target.FREE: methods}
    opening = [assign(number, feasible_methods) for number in range(5)]
    assert sorted(d.methods for d in opening) == [(method,) for method in methods]
    assert [d.target for d in opening] == ["70%", "50%", Target.FREE, "70%", "50%"]
    assert all(assign(number, feasible_methods).methods == tuple(methods) for number in range(5, 40))
    assert all(assign(number, feasible_methods).origin == Origin.SAMPLER for number in range(2, 40))


def test_a_method_that_reaches_no_budget_is_seen_free() -> None:
    feasible_methods = {"10%": ["width"], Target.FREE: ["width", "tokens", "other"]}
    assert [(d.target, d.methods) for d in (assign(number, feasible_methods) for number in range(3))] == [
        ("10%", ("width",)),
        (Target.FREE, ("tokens",)),
        (Target.FREE, ("other",)),
    ]


def test_budgets_take_turns_and_a_third_is_free() -> None:
    for budgets in (1, 2, 3, 5):
        feasible_methods = {**{str(b): ["tokens"] for b in range(budgets)}, Target.FREE: ["tokens"]}
        shares = Counter(assign(number, feasible_methods).target for number in range(budgets, budgets + 120))
        assert shares[Target.FREE] == 40
        assert max(shares[str(b)] for b in range(budgets)) - min(shares[str(b)] for b in range(budgets)) <= 1


def test_method_that_does_not_reach_a_budget_is_never_dealt_it() -> None:
    feasible_methods = {"70%": ["tokens", "width"], "10%": ["width"], Target.FREE: ["tokens", "width"]}
    assert all("tokens" not in d.methods for d in (assign(number, feasible_methods) for number in range(40)) if d.target == "10%")


def test_without_budgets_every_trial_is_free_and_every_method_is_seen() -> None:
    dealt = [assign(number, {Target.FREE: ["tokens", "width"]}) for number in range(12)]
    assert {d.target for d in dealt} == {Target.FREE}
    assert {d.methods for d in dealt[:2]} == {("tokens",), ("width",)}
