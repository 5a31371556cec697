"""A dense model that is hardly better than a constant guess is said, with what to raise."""

from __future__ import annotations

import pytest

from autoslim.core.recipe import TrainingSettings
from autoslim.core.result import BaseFacts
from autoslim.report.dense_models import chance_warning

TRAINING = TrainingSettings(epochs=3.0, lr=2e-4)


def warning(accuracy: float, chance: float, images: int) -> str | None:
    return chance_warning(BaseFacts(dense_flops=1, params=1, dense_accuracy=accuracy, chance=chance), images, TRAINING)


@pytest.mark.parametrize(("accuracy", "chance", "images"), [(0.12, 0.1, 1000), (0.5, 0.5, 5000), (0.01, 0.001, 50_000)])
def test_it_is_said_with_what_trains_it_better(accuracy, chance, images):
    found = warning(accuracy, chance, images)
    assert found is not None
    assert f"{accuracy:.1%} on {images:,} validation images is hardly better than always naming one class ({chance:.1%})" in found
    assert "--base-epochs (now 3)" in found
    assert "--base-lr (now 0.0002)" in found


@pytest.mark.parametrize(("accuracy", "chance", "images"), [(0.6, 0.5, 40), (0.3, 0.1, 11), (1.0, 0.5, 2)])
def test_where_images_are_too_few_to_tell_more_of_them_are_asked_for(accuracy, chance, images):
    found = warning(accuracy, chance, images)
    assert found is not None
    assert f"{accuracy:.1%} on {images} validation images cannot be told from always naming one class ({chance:.1%})" in found
    assert "--validation-share" in found


@pytest.mark.parametrize(
    ("accuracy", "chance", "images"), [(0.3, 0.1, 1000), (0.75, 0.5, 200), (0.12, 0.001, 50_000), (1.0, 0.5, 11)]
)
def test_a_better_one_needs_no_word(accuracy, chance, images):
    assert warning(accuracy, chance, images) is None
