"""Dense starts for `methods_table.py`: small models that are trained from scratch on CIFAR-10, without patch dropout.

    AUTOSLIM_DATA=... python benchmarks/dense_start.py --output runs/dense-start [--family vit] [--images 0] [--epochs 12]

The `vit` has the architecture of vit-cifar10, whose own training dropped patches at random: for a model that knows images with holes it
may matter less which patches it sees. The others are of the same size, one for each family of models and kind of part. A second call goes
on from the last epoch. The folder OUTPUT/model is in timm's hub format.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from autoslim.core.job import DatasetSpec, ModelSpec
from autoslim.core.recipe import TrainingSettings
from autoslim.data import prepare_dataset
from autoslim.training.base_model import BaseRequest, prepare_base

TRAINING = TrainingSettings(lr=1e-3, batch_size=128, distillation=0.0, ema_decay=0.0)
"""From scratch a ViT takes about twice the rate of fine-tuning. There is no teacher, and after some epochs an average of the weights
would still hold the first ones."""

SIZES = {"patch_size": 4, "embed_dim": 192, "depth": 6, "num_heads": 3}
"""Those of vit-cifar10."""

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", SIZES),
    "lvvit": ("lvvit_t", SIZES),
    # Rotary positions and gated units, as in the smaller DINOv3 models.
    "rotary": ("vit_small_plus_patch16_dinov3_qkvb", SIZES),
    "attention-pooling": ("vit_base_patch16_siglip_224", SIZES),
}
"""timm's names and arguments."""


def train_start(output: Path, data: Path, *, family: str = "vit", images: int = 0, epochs: float = 12.0) -> Path:
    """The folder of the trained model; what is there already is not trained again. `data` holds cifar10, `images` are 0 for all."""
    name, arguments = FAMILIES[family]
    model = ModelSpec(name=name, weights="scratch", args=arguments, image_size=(32, 32))
    spec = DatasetSpec(source=str(data / "cifar10"), validation_share=0.04, train_limit=images or None)
    dataset = prepare_dataset(spec, output / "cache", seed=0)
    request = BaseRequest(
        model=model, weights_digest="", dataset_digest=dataset.digest, training=TRAINING.replace(epochs=epochs), seed=0
    )
    for report in prepare_base(output / "model", request, dataset):
        print(
            f"epoch {report.epoch:g}: " + ", ".join(f"{name} {value:.4g}" for name, value in report.metrics.items()), flush=True
        )
    return output / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--family", choices=FAMILIES, default="vit", help="default: %(default)s")
    parser.add_argument("--images", type=int, default=0, help="training images, 0 for all (default)")
    parser.add_argument("--epochs", type=float, default=12.0)
    options = parser.parse_args()
    if "AUTOSLIM_DATA" not in os.environ:
        sys.exit("AUTOSLIM_DATA must name a folder with cifar10")
    data = Path(os.environ["AUTOSLIM_DATA"])
    train_start(options.output, data, family=options.family, images=options.images, epochs=options.epochs)


if __name__ == "__main__":
    main()
