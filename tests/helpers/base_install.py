"""The command line as the base install has it: what only extras and development need cannot be imported.

`python base_install.py COMMAND...`, each command a JSON list, runs them in one process and prints a line of JSON: exit code, stdout and
stderr of each.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import tomllib
import traceback
from collections.abc import Iterable, Sequence
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
_ANY = metadata.DistributionFinder.Context()


class BaseInstallFinder(metadata.DistributionFinder):
    """Finds what `finder` finds, but for the modules in `hidden`."""

    def __init__(self, finder: metadata.DistributionFinder, hidden: frozenset[str]) -> None:
        self._finder, self._hidden = finder, hidden

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return None if fullname.partition(".")[0] in self._hidden else self._finder.find_spec(fullname, path, target)

    def find_distributions(self, context: metadata.DistributionFinder.Context = _ANY) -> Iterable[metadata.Distribution]:
        return self._finder.find_distributions(context)


def hide_extras() -> frozenset[str]:
    """Hides every installed module that no dependency of the base install brings along, and names them."""
    present = _base_distributions()
    owners = metadata.packages_distributions()
    ours = {"autoslim", "workers", "search_spaces"}
    hidden = frozenset(name for name, found in owners.items() if name not in ours and not present & set(map(_normal, found)))
    sys.meta_path[:] = [
        BaseInstallFinder(finder, hidden) if getattr(finder, "__name__", "") == "PathFinder" else finder
        for finder in sys.meta_path
    ]
    for name in [name for name in sys.modules if name.partition(".")[0] in hidden]:
        del sys.modules[name]
    return hidden


def _base_distributions() -> set[str]:
    """The distributions of a base install, by their normalized names: what pyproject.toml asks for, and what these ask for in turn."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [Requirement(line) for line in project["dependencies"]]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        name, extras = _normal(requirement.name), frozenset(requirement.extras)
        if (name, extras) not in seen:
            seen.add((name, extras))
            waiting += _requirements(name, extras)
    return {name for name, _ in seen}


def _requirements(name: str, extras: frozenset[str]) -> list[Requirement]:
    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []
    found = [Requirement(line) for line in lines]
    return [r for r in found if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in extras | {""})]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    hide_extras()
    sys.stdout.write("\n" + json.dumps([_run(json.loads(command)) for command in sys.argv[1:]]) + "\n")


def _run(command: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    from autoslim.cli import main as command_line

    sys.argv[1:] = command
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            command_line()
            code = 0
        except SystemExit as end:
            code = 0 if end.code is None else int(end.code)
        except Exception:  # what the command raises is the result: the test reads the traceback
            traceback.print_exc()
            code = -1
    return code, output.getvalue(), errors.getvalue()


if __name__ == "__main__":
    main()
