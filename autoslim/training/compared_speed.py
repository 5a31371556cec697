"""How fast two models are beside each other: one image at a time in eager PyTorch, in turns."""

from __future__ import annotations

import statistics
from pathlib import Path

import torch

from autoslim.data import PreparedDataset, sample_split
from autoslim.export.profiling import hardware
from autoslim.export.profiling.interleaved import Run, ratio, time_interleaved
from autoslim.export.profiling.runners import eager
from autoslim.training.comparison import ComparedSpeed
from autoslim.training.device import pick_device
from autoslim.training.holdout import images_for, open_folder

_SECONDS = 3.0
"""For both models."""


def compare_speed(first: Path, second: Path, dataset: PreparedDataset, split: str) -> ComparedSpeed:
    """Both folders on an image of the split, each at its own size: a model whose tokens vary is as fast as its images let it be."""
    device = pick_device()
    one, other = time_interleaved([_run(folder, dataset, split, device) for folder in (first, second)], seconds=_SECONDS)
    times, low, high = ratio(other, one)
    return ComparedSpeed(
        hardware=hardware(),
        device=device.type,
        threads=torch.get_num_threads(),
        first_ms=1000 * statistics.median(one),
        second_ms=1000 * statistics.median(other),
        times=times,
        low=low,
        high=high,
        rounds=len(one),
    )


def _run(folder: Path, dataset: PreparedDataset, split: str, device: torch.device) -> Run:
    model = open_folder(folder)
    sample = sample_split(images_for(model, dataset.path, split), dataset.classes, model.image_size, 1)
    image_13HW = sample.tensor(mean=model.preprocessing.mean, std=model.preprocessing.std)
    run = eager(model.module, model.shape, device)
    return lambda: run(image_13HW)
