"""Dense starts for `methods_table.py`: small models that are trained from scratch, without patch dropout.

    AUTOSLIM_DATA=... python benchmarks/dense_start.py --output runs/dense-start [--family vit] [--images 0] [--epochs 12]

The `vit` has the architecture of vit-cifar10, whose own training dropped patches at random: for a model that knows images with holes it
may matter less which patches it sees. The others, one for each family of models and kind of part, cost about a tenth of it, so that a
start and its slimmed models take minutes on one core. All see images as 8 rows of 8 patches, Swin as 16 rows of 16. LV-ViT's stem costs
more than its blocks unless the images are small (`--size 16`). A second call goes on from the last epoch. OUTPUT/model is a folder in
timm's hub format.
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

SMALL_BATCH = 32
"""Of the small models, which see few images: more steps."""

SIZES = {"embed_dim": 192, "depth": 6, "num_heads": 3}
"""Those of vit-cifar10."""

SMALL = {"embed_dim": 64, "depth": 4, "num_heads": 2}

ROWS = 8
"""Of patches, as many as columns."""

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", SIZES),
    "lvvit": ("lvvit_t", SMALL),
    # Rotary positions and gated units, as in the smaller DINOv3 models.
    "rotary": ("vit_small_plus_patch16_dinov3_qkvb", SMALL),
    "attention-pooling": ("vit_base_patch16_siglip_224", SMALL),
    # Three stages, windows of 4 rows of 4 tokens; nothing is dropped at random.
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 32, "depths": (2, 2, 2), "num_heads": (2, 4, 8), "window_size": 4, "drop_path_rate": 0.0},
    ),
}
"""timm's names and arguments."""


def start_model(family: str, size: int) -> ModelSpec:
    """A model of the family for square images of `size` pixels."""
    name, arguments = FAMILIES[family]
    patch = size // (2 * ROWS if family == "swin" else ROWS)
    return ModelSpec(name=name, weights="scratch", args={"patch_size": patch, **arguments}, image_size=(size, size))


def train_start(
    output: Path, source: Path, *, family: str = "vit", size: int = 32, images: int = 0, epochs: float = 12.0
) -> Path:
    """The folder of the trained model; what is there already is not trained again. `source` is the data, `images` are 0 for all."""
    model = start_model(family, size)
    spec = DatasetSpec(source=str(source), validation_share=0.04, train_limit=images or None)
    dataset = prepare_dataset(spec, output / "cache", seed=0)
    training = TRAINING.replace(epochs=epochs, batch_size=TRAINING.batch_size if family == "vit" else SMALL_BATCH)
    request = BaseRequest(model=model, weights_digest="", dataset_digest=dataset.digest, training=training, seed=0)
    for report in prepare_base(output / "model", request, dataset):
        print(
            f"epoch {report.epoch:g}: " + ", ".join(f"{name} {value:.4g}" for name, value in report.metrics.items()), flush=True
        )
    return output / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--family", choices=FAMILIES, default="vit", help="default: %(default)s")
    parser.add_argument("--source", default="cifar10", help="the images: a folder of the data's (default: %(default)s)")
    parser.add_argument("--size", type=int, default=32, help="pixels of an image's side, a multiple of 16 (default: %(default)s)")
    parser.add_argument("--images", type=int, default=0, help="training images, 0 for all (default)")
    parser.add_argument("--epochs", type=float, default=12.0)
    options = parser.parse_args()
    if "AUTOSLIM_DATA" not in os.environ:
        sys.exit(f"AUTOSLIM_DATA must name a folder with {options.source}")
    source = Path(os.environ["AUTOSLIM_DATA"]) / options.source
    train_start(options.output, source, family=options.family, size=options.size, images=options.images, epochs=options.epochs)


if __name__ == "__main__":
    main()
