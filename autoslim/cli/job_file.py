"""`autoslim init`: a job file with every field explained, made from the spec itself."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from autoslim.config import JobSpec
from autoslim.config.schema import FILE as SCHEMA
from autoslim.errors import OutputError, RequestError

EXAMPLES = {"model": "deit_small_patch16_224", "data": "./flowers", "flops": ["50%"]}
_WIDTH = 100


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it; `-` is stdout.")] = Path("job.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Write a job file in which every field is explained.

    Example: autoslim init && autoslim plan job.yaml
    """
    text = commented_file()
    if str(file) == "-":
        sys.stdout.write(text)
        return
    if file.exists() and not force:
        raise RequestError(f"{file} exists; name another file, or give --force")
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{file} cannot be written: {error.strerror}") from error
    sys.stdout.write(f"{file}\n")
    sys.stderr.write(f"Next: autoslim plan {file} | autoslim search {file} | autoslim submit {file} --wait\n")


def commented_file() -> str:
    """What is needed stands there as an example; all else is commented out and has its default."""
    lines = [
        f"# yaml-language-server: $schema={SCHEMA.as_uri()}",
        "# A job of autoslim. What is commented out has the value that is shown.",
        "",
    ]
    for name, field in JobSpec.model_fields.items():
        if name == "schema_version":
            continue
        lines += [f"# {line}" for line in textwrap.wrap(field.description or "", _WIDTH)]
        # One of flops, latency and params is needed; the example asks for FLOPs.
        needed = name in EXAMPLES
        value = EXAMPLES[name] if needed else field.get_default(call_default_factory=True)
        lines += [("" if needed else "# ") + _yaml(name, value), ""]
    return "\n".join(lines)


def _yaml(name: str, value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=_WIDTH).removesuffix("...\n").rstrip()
    return f"{name}: {text}"
