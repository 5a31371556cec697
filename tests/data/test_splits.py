from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoslim.data.splits import keep_count, split_off_count, split_off_share
from autoslim.errors import DatasetError


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(2, 60), min_size=2, max_size=8), share=st.floats(0.01, 0.99), seed=st.integers(0, 9))
def test_cut_parts_never_overlap_and_hold_every_class(counts, share, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    names = tuple(map(str, range(len(counts))))
    kept, taken = split_off_share(labels, share, seed=seed, purpose="test", classes=names)
    assert sorted([*kept, *taken]) == list(range(len(labels)))
    assert set(labels[kept]) == set(labels[taken]) == set(range(len(counts)))


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(1, 60), min_size=2, max_size=8), limit=st.integers(8, 200), seed=st.integers(0, 9))
def test_limit_keeps_exactly_that_many_of_every_class(counts, limit, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    kept = keep_count(labels, limit, seed=seed, classes=tuple(map(str, range(len(counts)))))
    assert len(set(kept.tolist())) == min(limit, len(labels))
    assert set(labels[kept]) == set(range(len(counts)))


def test_cut_is_stratified():
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    _, taken = split_off_count(labels, 100, seed=0, purpose="test")
    assert np.bincount(labels[taken]).tolist() == [60, 30, 10]


def test_cut_depends_on_seed_and_purpose_alone():
    labels = np.repeat([0, 1], 50)
    cuts = [
        tuple(split_off_count(labels, 20, seed=seed, purpose=purpose)[1])
        for seed, purpose in ((0, "test"), (0, "test"), (1, "test"), (0, "validation"))
    ]
    assert cuts[0] == cuts[1]
    assert len(set(cuts)) == 3


def test_class_too_small_to_cut_is_named():
    with pytest.raises(DatasetError, match="class 'rare' has 1 image left to take validation from"):
        split_off_share(np.array([0, 0, 0, 1]), 0.5, seed=0, purpose="validation", classes=("common", "rare"))


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_share_out_of_range_is_refused(share):
    with pytest.raises(DatasetError, match="validation_share"):
        split_off_share(np.array([0, 0, 1, 1]), share, seed=0, purpose="test", classes=("a", "b"))


def test_limit_below_the_classes_is_refused():
    with pytest.raises(DatasetError, match="train_limit is 1; allowed: at least 2"):
        keep_count(np.array([0, 0, 1, 1]), 1, seed=0, classes=("a", "b"))
