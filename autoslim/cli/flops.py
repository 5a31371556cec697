"""`autoslim flops`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from autoslim.core.job import ModelSpec


def show_flops(model: str, *, image_size: int | None, as_json: bool) -> None:
    from autoslim.core.plan import Plan
    from autoslim.cost import count_flops, count_flops_torch, predict
    from autoslim.export.artifact import load, load_config
    from autoslim.models import create_dense

    config = Path(model) / "config.json"
    if config.is_file() and '"plan"' in config.read_text():
        slim = load_config(model)
        module, shape, plan = load(model), slim.shape, slim.plan
    else:
        size = None if image_size is None else (image_size, image_size)
        dense = create_dense(ModelSpec(name=model, weights="scratch", image_size=size))
        module, shape, plan = dense.module, dense.shape, Plan.dense(dense.shape)
    predicted = predict(shape, plan)
    facts = {
        "model": model,
        "image_size": list(shape.image_size),
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
    sys.stdout.write(f"{model} at {shape.image_size[0]}x{shape.image_size[1]}, multiply-accumulates per image\n")
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
