"""The JSON Schema of `job.yaml`, for editors. `python -m autoslim.config.schema` writes it to `job.schema.json` beside this file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from autoslim.config.job_spec import JobSpec

FILE = Path(__file__).with_name("job.schema.json")


def job_schema() -> dict[str, Any]:
    """Draft 2020-12."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **JobSpec.model_json_schema()}


def render() -> str:
    return json.dumps(job_schema(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(render(), encoding="utf-8")
