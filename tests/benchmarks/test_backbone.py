"""The table of `benchmarks/backbone.py` says what the runs found."""

from __future__ import annotations

import backbone


def facts_of(name: str, budget: str, **changes: float) -> backbone.Facts:
    numbers = {
        "pruned": 0.5,
        "validation": 0.8,
        "pooled": 0.912,
        "patches": 0.834,
        "dense_knn": 0.7,
        "knn": 0.6543,
        "minutes": 1.0,
    }
    return backbone.Facts(name=name, budget=budget, **{**numbers, **changes})


def test_a_run_that_is_missing_is_an_empty_cell():
    facts = [facts_of("merge", "70%"), facts_of("merge", "50%", knn=0.6), facts_of("random_tokens", "50%", patches=0.7)]
    heads, rule, merge, drawn, _, dense = backbone.table(facts, ["70%", "50%"]).splitlines()
    assert heads.count("|") == rule.count("|") == merge.count("|") == drawn.count("|") == 10
    assert merge == "| `merge` | 0.500 | 0.912 | 0.834 | 65.4 | 0.500 | 0.912 | 0.834 | 60.0 |"
    assert drawn == "| `random_tokens` |  |  |  |  | 0.500 | 0.912 | 0.700 | 65.4 |"
    assert dense == "k-NN top-1 of the dense model: 70.0 %"
