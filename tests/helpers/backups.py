"""The commands of `docs/service/backup.md`, run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from helpers.command_line import blocks
from helpers.documents import ROOT
from loopback.postgres import find_binaries

PAGE = ROOT / "docs" / "service" / "backup.md"


def run_section(heading: str, *, root: Path, backup: Path, database: str = "", stand_ins: Path | None = None) -> None:
    """The shell block of a section, which stops at the first error; `database` is libpq's URL, `stand_ins` a folder of programs that come
    before those of the machine."""
    (section,) = re.findall(rf"^### {heading}\n(.*?)(?=^##)", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    (block,) = blocks(section, "sh")
    programs = [stand_ins, Path(sys.executable).parent, find_binaries()]
    path = os.pathsep.join([*(str(folder) for folder in programs if folder is not None), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "ROOT": str(root), "BACKUP": str(backup), "DATABASE": database}
    done = subprocess.run(["bash", "-eu", "-c", block], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
