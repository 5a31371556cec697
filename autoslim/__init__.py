"""Slims vision transformers to a FLOPs budget.

`run_search` and `slim` make a slimmed model, `load` loads one, `read_images` reads images for it; `features` of any model, `count_flops` of
any model, `predict` those of a plan; `SearchCallback` follows a search; `Client` and `AsyncClient` submit searches to a service. Everything
else is a submodule.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoslim.api.search import SearchResult, run_search
    from autoslim.api.slim import SlimResult, slim
    from autoslim.client import AsyncClient, Client
    from autoslim.cost import count_flops, predict
    from autoslim.export.artifact import load, load_config
    from autoslim.export.read_images import read_images
    from autoslim.methods.layers.backbone import features
    from workers.progress.callbacks import SearchCallback

__all__ = [
    "AsyncClient",
    "Client",
    "SearchCallback",
    "SearchResult",
    "SlimResult",
    "count_flops",
    "features",
    "load",
    "load_config",
    "predict",
    "read_images",
    "run_search",
    "slim",
]

_HOMES = {
    "AsyncClient": "autoslim.client",
    "Client": "autoslim.client",
    "SearchCallback": "workers.progress.callbacks",
    "SearchResult": "autoslim.api.search",
    "SlimResult": "autoslim.api.slim",
    "count_flops": "autoslim.cost",
    "features": "autoslim.methods.layers.backbone",
    "load": "autoslim.export.artifact",
    "load_config": "autoslim.export.artifact",
    "predict": "autoslim.cost",
    "read_images": "autoslim.export.read_images",
    "run_search": "autoslim.api.search",
    "slim": "autoslim.api.slim",
}


def __getattr__(name: str) -> Any:
    # Lazily, so that `autoslim --help` does not wait for torch.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'autoslim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
