"""`Architecture`: a dense model as data, from which it can be built without weights; and the folder that holds both."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import timm
from torch import nn

from autoslim.core.record import Record
from autoslim.models.registry import family_of
from autoslim.models.tensor_file import write_tensors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing(Record):
    """What the model expects of an image: resized until it just covers size / `crop_pct`, rounded up, its centre cropped, the mean
    subtracted, divided by the deviation."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_pct: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture(Record):
    """A timm model name and its arguments, image size and classes included among them."""

    name: str
    args: dict[str, Any]

    def build(self) -> nn.Module:
        """The dense model, untrained, open (`Family.open`), in eval mode."""
        module: nn.Module = timm.create_model(self.name, pretrained=False, **self.args)
        return family_of(module).open(module.eval())


def write_folder(
    folder: Path, module: nn.Module, architecture: Architecture, *, preprocessing: Preprocessing, classes: tuple[str, ...]
) -> None:
    """Writes timm's hub format: `timm.create_model("local-dir:FOLDER", pretrained=True)` loads it."""
    size = architecture.args["img_size"]
    own: dict[str, Any] = module.pretrained_cfg  # type: ignore[assignment]
    config = {
        "architecture": architecture.name,
        "num_classes": len(classes),
        "num_features": module.num_features,
        "model_args": {key: value for key, value in architecture.args.items() if key != "num_classes"},
        "pretrained_cfg": {
            "tag": "autoslim",
            "custom_load": False,
            "input_size": [3, size[0], size[1]],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": preprocessing.crop_pct,
            "crop_mode": "center",
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "num_classes": len(classes),
            "pool_size": None,
            # The layers that timm adapts to other channels and classes.
            "first_conv": own.get("first_conv", "patch_embed.proj"),
            "classifier": own.get("classifier", "head"),
            "label_names": list(classes),
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "model.safetensors", {k: v.contiguous() for k, v in family_of(module).timm_state(module).items()})
    # The configuration goes last: a folder without it is not a model yet.
    (folder / "config.json").write_text(json.dumps(config, indent=1))
