"""Loads slimmed models where Ray, Optuna and MLflow cannot be imported, and holds their FLOPs against their budgets."""

import sys

for name in ("ray", "optuna", "mlflow"):
    sys.modules[name] = None  # type: ignore[assignment]

import torch

import autoslim

for folder in sys.argv[1:]:
    config = autoslim.load_config(folder)
    model = autoslim.load(folder)
    with torch.no_grad():
        logits = model(torch.zeros(2, 3, *config.shape.image_size))
    counted = autoslim.count_flops(model, config.shape.image_size)
    assert logits.shape == (2, len(config.classes)), logits.shape
    assert counted == config.flops.fvcore <= config.flops.budget, (counted, config.flops)
    print(
        f"{folder}: {counted:,} of {config.flops.budget:,} multiply-accumulates, test accuracy {config.accuracy['test/slimmed']:.2%}"
    )
if len(sys.argv) < 2:
    sys.exit("no model was given")
