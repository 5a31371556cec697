"""`autoslim models`."""

from __future__ import annotations

import json
import sys

from autoslim.methods import METHODS
from autoslim.slimming.supported_models import SupportedModel, supported_models


def show_models(part: str | None, *, as_json: bool) -> None:
    found = supported_models(part or "")
    if as_json:
        sys.stdout.write(json.dumps([model.to_dict() for model in found]) + "\n")
        return
    wide = max(len(model.name) for model in found)
    taken = sum(bool(model.methods) for model in found)
    for model in found:
        sys.stdout.write(f"{model.name:{wide}}  {verdict(model)}\n")
    sys.stdout.write(f"{taken} of {len(found)} models can be slimmed\n")


def verdict(model: SupportedModel) -> str:
    """The methods in words, and why the others refuse: `all`, `all but merge: …`, or `none: …`."""
    if not model.refused:
        return "all methods"
    reasons = "; ".join(dict.fromkeys(model.refused.values()))
    if not model.methods:
        return f"none: {reasons}"
    if len(model.refused) <= len(METHODS) // 2:
        return f"all but {', '.join(model.refused)}: {reasons}"
    return f"{', '.join(model.methods)}; not the others: {reasons}"
