"""What the two clients share besides requests and responses."""

from __future__ import annotations

import os
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx

from autoslim.client.address import Address
from autoslim.client.replies import JobReply
from autoslim.core.urls import is_loopback
from autoslim.errors import RequestError

LOG_POLL_SECONDS = 1.0
"""Time between two requests for a log that grows."""


class BaseJob:
    """`info` is the job at the last request."""

    def __init__(self, info: JobReply) -> None:
        self.info = info

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.state}>"

    @property
    def id(self) -> str:
        return self.info.id

    @property
    def state(self) -> str:
        return self.info.state


def httpx_options(address: Address, timeout: httpx.Timeout | float) -> dict[str, Any]:
    """The arguments of httpx's clients. Redirects are not followed: a key is for its own address only."""
    return {
        "base_url": address.url,
        "headers": {**address.headers, "User-Agent": f"autoslim/{metadata.version('autoslim')}"},
        "timeout": timeout,
        "follow_redirects": False,
        # A proxy from the environment cannot reach this machine's loopback.
        "trust_env": not is_loopback(httpx.URL(address.url).host),
    }


def only_budget(job_id: str, budget: str | None, labels: list[str]) -> str:
    """The budget that is given, or the only one that has a model.

    Raises:
        RequestError: when there are several models, or none.
    """
    if budget is not None:
        return budget
    if len(labels) != 1:
        raise RequestError(f"job {job_id} has models for {', '.join(labels) or 'no budget'}; name one of them")
    return labels[0]


def cache_folder(job_id: str, budget: str) -> Path:
    """Where `load` keeps a model."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "autoslim" / "models" / re.sub(r"[^\w%.-]", "_", job_id) / re.sub(r"[^\w%.-]", "_", budget)
