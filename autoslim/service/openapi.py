"""Writes the OpenAPI document, `openapi.json` beside this file: `python -m autoslim.service.openapi`."""

from __future__ import annotations

import json
from pathlib import Path

from autoslim.service.app import create_app
from autoslim.service.settings import ServiceSettings

FILE = Path(__file__).with_name("openapi.json")


def render() -> str:
    """The document as text. It does not depend on the settings."""
    app = create_app(ServiceSettings(storage="sqlite:////unused", root=Path("/unused")))
    return json.dumps(app.openapi(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    FILE.write_text(render(), encoding="utf-8")
