"""Slims vision transformers to a FLOPs budget.

`load` a slimmed model, `count_flops` of any model, `predict` those of a plan; `Client` and `AsyncClient` submit searches to a service.
Everything else is a submodule.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoslim.artifact import load, load_config
    from autoslim.client import AsyncClient, Client
    from autoslim.flops import count_flops, predict

__all__ = ["AsyncClient", "Client", "count_flops", "load", "load_config", "predict"]

_HOMES = {
    "AsyncClient": "client",
    "Client": "client",
    "count_flops": "flops",
    "load": "artifact",
    "load_config": "artifact",
    "predict": "flops",
}


def __getattr__(name: str) -> Any:
    # Lazily, so that `autoslim --help` does not wait for torch.
    if name in _HOMES:
        return getattr(importlib.import_module(f"autoslim.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'autoslim' has no attribute {name!r}")
