"""Every setting as a row, for the documentation's reference page: `python -m autoslim.config.reference` prints the table as Markdown."""

from __future__ import annotations

import dataclasses
import sys

from pydantic import BaseModel

from autoslim.config.job_spec import JobSpec
from autoslim.config.placement import Placement
from autoslim.config.setting import Commands, Setting, settings_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """`flag` is None for what no command line says, and `default` and `allowed` are empty where there is nothing to say.

    A `resumable` setting may differ when a search is resumed; one that `decides_plan` changes what `autoslim plan` answers.
    """

    name: str
    group: str
    flag: str | None
    variable: str | None
    type: str
    needed: bool
    default: str
    allowed: str
    help: str
    resumable: bool
    decides_plan: bool


def reference(*models: type[BaseModel]) -> list[Row]:
    """A row a setting of the models, by default of `JobSpec` and `Placement`, in the order of their fields."""
    return [_row(setting) for model in models or (JobSpec, Placement) for setting in settings_of(model).values()]


def as_markdown(rows: list[Row]) -> str:
    """A table a group."""
    lines: list[str] = []
    for group in dict.fromkeys(row.group for row in rows):
        lines += [f"## {group}", "", "| Field | Flag | Variable | Type | Default | Allowed | On `--resume` | Meaning |"]
        lines.append("|---" * 8 + "|")
        lines += [_markdown(row) for row in rows if row.group == group] + [""]
    return "\n".join(lines)


def _row(setting: Setting) -> Row:
    typed = setting.rules.commands is not Commands.NONE
    flags = [setting.flag, *(shortcut.flag for shortcut in setting.rules.shortcuts)]
    return Row(
        name=setting.name,
        group=str(setting.rules.group),
        flag=", ".join(flags) if typed else None,
        variable=setting.variable if typed else None,
        type=setting.type_text,
        needed=setting.needed,
        default=setting.default_text or "",
        allowed=setting.allowed,
        help=setting.help,
        resumable=setting.rules.resumable,
        decides_plan=setting.rules.decides_plan,
    )


def _markdown(row: Row) -> str:
    default = "required" if row.needed else row.default
    flag, variable = (f"`{text}`" if text else "" for text in (row.flag, row.variable))
    resumed = "may change" if row.resumable else "kept"
    cells = (f"`{row.name}`", flag, variable, row.type, default, row.allowed, resumed, row.help)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.stdout.write(as_markdown(reference()) + "\n")
