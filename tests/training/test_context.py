"""The images that all trials of a job measure on."""

from __future__ import annotations

import torch

from autoslim.core.recipe import TrainingSettings
from autoslim.training import TrialContext


def test_images_without_augmentation_come_once_however_often_training_repeats_them(context: TrialContext):
    once, thrice = (
        torch.cat(list(context.plain_images(48, TrainingSettings(batch_size=32, repeats=repeats), seed=0))) for repeats in (1, 3)
    )
    assert len(once) == 48 and torch.equal(once, thrice)
    few = torch.cat(list(context.plain_images(20, TrainingSettings(batch_size=32), seed=0)))
    assert torch.equal(few, once[:20])
