"""A search that is resumed on other images than it began with says so."""

from __future__ import annotations

from helpers.sample_search import DENSE

from autoslim.core.result import DataFacts
from workers.search.prepare import other_images

DATA = DataFacts(content_digest="0123", images={"train": 90, "validation": 10, "test": 20}, classes=2)


def test_other_images_are_told_with_their_numbers():
    before = DENSE.replace(data=DATA)
    said = other_images(before, DATA.replace(content_digest="4567", images={**DATA.images, "train": 88}))
    assert "(90 train, 10 validation, 20 test; now 88 train, 10 validation, 20 test)" in said
    assert other_images(before, DATA) == ""
    # A first attempt, and a search of an earlier version.
    assert other_images(None, DATA) == other_images(DENSE, DATA) == ""
