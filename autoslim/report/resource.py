"""Style and script of a page, and how its policy names them."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources


def read_resource(name: str) -> str:
    return importlib.resources.files("autoslim.report").joinpath(name).read_text(encoding="utf-8")


def policy_source(text: str) -> str:
    """Lets exactly this inline block stand in a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
