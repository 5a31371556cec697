"""`autoslim push`."""

from __future__ import annotations

import sys
from pathlib import Path

from autoslim.report.hub import Pushed, push
from autoslim.report.hub.metadata import UNKNOWN_LICENSE


def push_folder(folder: Path, *, repo: str, private: bool, revision: str | None, license: str | None, as_json: bool) -> None:
    pushed = push(folder.absolute(), repo, private=private, revision=revision, license=license)
    if pushed.license == UNKNOWN_LICENSE:
        sys.stderr.write("the license of the dense model's weights is not known; give the model's with --license\n")
    sys.stdout.write((pushed.to_json(indent=1) if as_json else render(pushed)) + "\n")


def render(pushed: Pushed) -> str:
    how = "timm and autoslim load it" if pushed.timm_loads else "autoslim loads it; timm's constructor cannot express it"
    return f"{pushed.url}\n{len(pushed.files)} files, license {pushed.license}; {how}"
