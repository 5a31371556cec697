"""What the two clients have in common besides requests and answers."""

from __future__ import annotations

import os
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx

from autoslim.client.address import Address, is_loopback
from autoslim.client.replies import JobReply
from autoslim.errors import RequestError

LOG_PAUSE = 1.0
"""Seconds between two looks at a log that grows."""


class BaseJob:
    """`info` is how the job stood when it was last looked at."""

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


def connection(address: Address, timeout: httpx.Timeout | float) -> dict[str, Any]:
    """How httpx's clients are made. No redirect is followed: a key goes to nobody but the address it was given for."""
    return {
        "base_url": address.url,
        "headers": {**address.headers, "User-Agent": f"autoslim/{metadata.version('autoslim')}"},
        "timeout": timeout,
        "follow_redirects": False,
        # A proxy of the environment cannot reach this machine's loopback.
        "trust_env": not is_loopback(httpx.URL(address.url).host),
    }


def of_one_budget(job_id: str, budget: str | None, labels: list[str]) -> str:
    """Raises RequestError when it is not clear which model is meant."""
    if budget is not None:
        return budget
    if len(labels) != 1:
        raise RequestError(f"job {job_id} has models for {', '.join(labels) or 'no budget'}; say which")
    return labels[0]


def model_folder(job_id: str, budget: str) -> Path:
    """Where a model is kept that was loaded without saying where."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "autoslim" / "models" / re.sub(r"[^\w%.-]", "_", job_id) / re.sub(r"[^\w%.-]", "_", budget)
