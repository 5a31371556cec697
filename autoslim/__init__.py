"""Slims vision transformers to a FLOPs budget.

`load` a slimmed model, `read_images` for it, `features` of any model, `count_flops` of any model, `predict` those of a plan; `Client` and
`AsyncClient` submit searches to a service. Everything else is a submodule.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoslim.client import AsyncClient, Client
    from autoslim.cost import count_flops, predict
    from autoslim.export.artifact import load, load_config
    from autoslim.export.read_images import read_images
    from autoslim.methods.layers.backbone import features

__all__ = ["AsyncClient", "Client", "count_flops", "features", "load", "load_config", "predict", "read_images"]

_HOMES = {
    "AsyncClient": "client",
    "Client": "client",
    "count_flops": "cost",
    "features": "methods.layers.backbone",
    "load": "export.artifact",
    "load_config": "export.artifact",
    "predict": "cost",
    "read_images": "export.read_images",
}


def __getattr__(name: str) -> Any:
    # Lazily, so that `autoslim --help` does not wait for torch.
    if name in _HOMES:
        return getattr(importlib.import_module(f"autoslim.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'autoslim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
