"""A dense start for `methods_table.py` that was trained without patch dropout: the small ViT of the data folder, from scratch on CIFAR-10.

    AUTOSLIM_DATA=... python benchmarks/dense_start.py --output runs/dense-start [--epochs 12]

The architecture is that of vit-cifar10, whose own training dropped patches at random: for a model that knows images with holes it may
matter less which patches it sees. A second call goes on from the last epoch. The folder OUTPUT/model is in timm's hub format.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from autoslim.core.job import DatasetSpec, ModelSpec
from autoslim.core.recipe import TrainingSettings
from autoslim.data import prepare_dataset
from autoslim.training.base_model import BaseRequest, prepare_base

TRAINING = TrainingSettings(lr=1e-3, batch_size=128, distillation=0.0, ema_decay=0.0)
"""From scratch a ViT takes about twice the rate of fine-tuning. There is no teacher, and after some epochs an average of the weights
would still hold the first ones."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=12.0)
    options = parser.parse_args()
    if "AUTOSLIM_DATA" not in os.environ:
        sys.exit("AUTOSLIM_DATA must name a folder with cifar10 and vit-cifar10")
    data = Path(os.environ["AUTOSLIM_DATA"])
    config = json.loads((data / "vit-cifar10" / "config.json").read_text())
    arguments = {name: value for name, value in config["model_args"].items() if name != "img_size"}
    model = ModelSpec(name=config["architecture"], weights="scratch", args=arguments, image_size=(32, 32))
    spec = DatasetSpec(source=str(data / "cifar10"), validation_share=0.04)
    dataset = prepare_dataset(spec, options.output / "cache", seed=0)
    request = BaseRequest(
        model=model, weights_digest="", dataset_digest=dataset.digest, training=TRAINING.replace(epochs=options.epochs), seed=0
    )
    for report in prepare_base(options.output / "model", request, dataset):
        print(
            f"epoch {report.epoch:g}: " + ", ".join(f"{name} {value:.4g}" for name, value in report.metrics.items()), flush=True
        )


if __name__ == "__main__":
    main()
