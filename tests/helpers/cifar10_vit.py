"""A vision transformer that was trained on CIFAR-10, and images of it; tests that need them are skipped without `AUTOSLIM_DATA`."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
import timm
import torch
from helpers.tiny import logits
from PIL import Image
from torch import Tensor, nn


def real_model() -> tuple[nn.Module, Tensor, Tensor, dict[str, Tensor]]:
    """The trained ViT, 2,000 test images with labels, and 512 training images as the scores' own."""
    dense = timm.create_model(f"local-dir:{data_folder() / 'vit-cifar10'}", pretrained=True).eval()
    x, labels = real_images("test", 2000)
    return dense, x, labels, {"images": real_images("train", 512)[0].half()}


def data_folder() -> Path:
    folder = os.environ.get("AUTOSLIM_DATA")
    if not folder or not (Path(folder) / "vit-cifar10").is_dir():
        pytest.skip("AUTOSLIM_DATA does not name a folder with cifar10 and vit-cifar10")
    return Path(folder)


def real_images(split: str, count: int) -> tuple[Tensor, Tensor]:
    folder = data_folder()
    table = next(parquet.ParquetFile(folder / "cifar10" / f"{split}.parquet").iter_batches(batch_size=count))
    config = json.loads((folder / "vit-cifar10" / "config.json").read_text())["pretrained_cfg"]
    pixels = [np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in table.column("image").to_pylist()]
    x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(config[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    return (x - mean) / std, torch.tensor(table.column("label").to_pylist())


def accuracy(model: nn.Module, x: Tensor, labels: Tensor) -> float:
    return sum(
        float((logits(model, part).argmax(1) == answer).sum())
        for part, answer in zip(x.split(100), labels.split(100), strict=True)
    ) / len(x)
