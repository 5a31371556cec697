"""Accuracy on the test images, image by image, with intervals at 95 %."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autoslim.core.interval import wilson
from autoslim.core.recipe import TrainingSettings
from autoslim.data import ImageSplit
from autoslim.methods.base import logits_of
from autoslim.training import TrialContext

Hits = NDArray[np.bool_]


def holdout_hits(model: nn.Module, context: TrialContext) -> Hits:
    """Whether each test image is classified correctly, in float32: an array of booleans (N,)."""
    return split_hits(model, context, context.splits.test)


def split_hits(model: nn.Module, context: TrialContext, split: ImageSplit) -> Hits:
    """The same of another split's images."""
    loader = context.loader(split, TrainingSettings(batch_size=100, augmentation="none"), seed=0, train=False)
    # For models that drop tokens at random.
    torch.manual_seed(0)
    with torch.no_grad():
        found = [logits_of(model(images)).argmax(1) == labels for images, labels in loader.epoch(0, context.device)]
    return torch.cat(found).cpu().numpy()


def paired(hits: list[Hits], others: list[Hits]) -> tuple[float, float]:
    """Mean difference to `others` on the same images, in points, and half the width of its interval.

    The lists have one array a seed. Differences are averaged over the seeds for each image, so that the interval is over images.
    """
    delta = np.mean([ours.astype(float) - theirs.astype(float) for ours, theirs in zip(hits, others, strict=True)], axis=0)
    return 100 * float(delta.mean()), 100 * 1.96 * float(delta.std(ddof=1)) / math.sqrt(len(delta))


def format_accuracy(hits: Hits) -> str:
    return wilson(float(hits.mean()), len(hits)).percent()


def format_difference(hits: list[Hits], others: list[Hits]) -> str:
    gained, half = paired(hits, others)
    return f"{gained:+.2f} ({gained - half:+.2f} to {gained + half:+.2f})"
