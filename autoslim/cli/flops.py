"""`autoslim flops`."""

from __future__ import annotations

import json
import sys
from typing import Any

from autoslim.config.pairs import parse_pairs
from autoslim.config.value_types import image_sides
from autoslim.core.job import ModelSpec
from autoslim.errors import RequestError


def show_flops(
    model: str, *, image_size: str | None = None, classes: int | None = None, model_args: str | None = None, as_json: bool = False
) -> None:
    """Raises RequestError for arguments beside a slimmed model, which has its own."""
    from autoslim.config.dense_models import without_timm_scheme
    from autoslim.core.plan import Plan
    from autoslim.cost import count_flops, count_flops_torch, predict
    from autoslim.export.artifact import load, load_config
    from autoslim.models import create_dense
    from autoslim.storage.model_folder import dense_folder

    model = without_timm_scheme(model)
    folder = dense_folder(model)
    config = folder / "config.json"
    if config.is_file() and '"plan"' in config.read_text():
        given = {"--image-size": image_size, "--classes": classes, "--model-args": model_args}
        if names := [name for name, value in given.items() if value is not None]:
            raise RequestError(
                f"{names[0]}: {model} is a slimmed model, whose cost is fixed; allowed: none of {', '.join(given)}"
            )
        slim = load_config(folder)
        module, shape, plan = load(folder), slim.shape, slim.plan
    else:
        size = None if image_size is None else _sides(image_size)
        dense = create_dense(ModelSpec(name=model, weights="scratch", args=_parsed(model_args), image_size=size), classes=classes)
        module, shape, plan = dense.module, dense.shape, Plan.dense(dense.shape)
    predicted = predict(shape, plan)
    facts = {
        "model": model,
        "image_size": list(shape.image_size),
        "classes": shape.classes,
        "flops": count_flops(module, shape.image_size),
        "predicted": predicted.total,
        "matmuls": predicted.matmuls,
        "norms": predicted.norms,
        "extras": predicted.extras,
        "torch": count_flops_torch(module, shape.image_size),
        "params": sum(p.numel() for p in module.parameters()),
    }
    if as_json:
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    head = f"{shape.classes} classes" if shape.classifiers else "features without a classifier (--classes adds one)"
    sys.stdout.write(f"{model} at {shape.image_size[0]}x{shape.image_size[1]}, {head}, multiply-accumulates per image\n")
    for name, label in (
        ("flops", "fvcore"),
        ("predicted", "closed form"),
        ("matmuls", "  matrix products"),
        ("norms", "  norms"),
        ("extras", "  the method's own parts"),
        ("torch", "torch (no norms)"),
        ("params", "parameters"),
    ):
        sys.stdout.write(f"{label:26}{facts[name]:>18,}\n")


def _sides(image_size: str) -> tuple[int, int]:
    try:
        return image_sides(image_size)
    except ValueError as error:
        raise RequestError(f"--image-size {error}") from None


def _parsed(model_args: str | None) -> dict[str, Any]:
    try:
        return parse_pairs(model_args or "")
    except RequestError as error:
        raise RequestError(f"--model-args: {error}") from error
