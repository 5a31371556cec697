"""The JSON Schema of a tool's `spec`: the fields of a job, in the words of their settings.

It is flatter than that of `job.yaml`, whose references to definitions have no place within a tool's arguments; the service checks the
values.
"""

from __future__ import annotations

from typing import Any

from autoslim.config import JobSpec, Setting, settings_of


def spec_schema() -> dict[str, Any]:
    settings = settings_of(JobSpec)
    return {
        "type": "object",
        "properties": {name: {"description": _described(each)} for name, each in settings.items()},
        "required": [name for name, each in settings.items() if each.needed],
        "additionalProperties": False,
    }


def _described(setting: Setting) -> str:
    allowed = f" Allowed: {setting.allowed}." if setting.allowed else ""
    default = f" Default: {setting.default_text}." if setting.default_text else ""
    return f"{setting.help} A {setting.type_text}.{allowed}{default}"
