"""Writes `sync_client.py` from `async_client.py`; `make client` runs it.

The two clients differ in `await`, `async` and a few names, which unasync replaces token by token. Run it by its path and not with `-m`:
importing the package would import the client that is to be replaced.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("async_client.py")
TARGET = Path(__file__).with_name("sync_client.py")

_REPLACEMENTS = {
    "AsyncClient": "Client",
    "AsyncJob": "Job",
    "AsyncBaseTransport": "BaseTransport",
    "aclose": "close",
    "aiter_raw": "iter_raw",
    "aiter_text": "iter_text",
    "aread": "read",
    # Of asyncio only `sleep` is used, which `time` has as well.
    "asyncio": "time",
}


def render() -> str:
    """The synchronous client as text; needs `unasync` and `ruff`, which the extra `dev` installs."""
    import unasync

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / SOURCE.name
        source.write_text(SOURCE.read_text(encoding="utf-8"), encoding="utf-8")
        rule = unasync.Rule(fromdir=SOURCE.name, todir=TARGET.name, additional_replacements=_REPLACEMENTS)
        unasync.unasync_files([str(source)], [rule])
        return _formatted((Path(folder) / TARGET.name).read_text(encoding="utf-8"))


def _formatted(text: str) -> str:
    """Renamed imports are in another order, and shorter lines fit on one."""
    for options in (("check", "--fix", "--select", "I"), ("format",)):
        command = [sys.executable, "-m", "ruff", *options, "--quiet", "--stdin-filename", str(TARGET), "-"]
        text = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout  # noqa: S603
    return text


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
