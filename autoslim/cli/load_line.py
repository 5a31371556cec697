"""The line of a summary that says how its model is loaded."""

from __future__ import annotations

import json
import shlex
import sys


def load_line(folder: str) -> str:
    """A command that can be pasted whatever the folder's name is, with the interpreter, whose environment may not be active."""
    # A text of JSON is one of Python, too.
    code = f"import autoslim; print(autoslim.load({json.dumps(folder, ensure_ascii=False)}))"
    return f"Load       {shlex.join([sys.executable, '-c', code])}"
