"""The core runs where no Ray, Optuna or MLflow is installed."""

from __future__ import annotations

import graphlib
import importlib.util
import pkgutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

import autoslim

CORE = ("core", "cost", "data", "errors", "export", "methods", "models", "storage", "training")
SEARCH_PACKAGES = ("ray", "optuna", "mlflow")

_IMPORT_ALL = """
import importlib, pkgutil, sys

for name in {blocked}:
    sys.modules[name] = None
for name in {core}:
    module = importlib.import_module("autoslim." + name)
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), module.__name__ + "."):
        importlib.import_module(found.name)
print(sorted(name for name in sys.modules if name.partition(".")[0] in {blocked} and sys.modules[name] is not None))
"""


@pytest.mark.slow
@pytest.mark.short
def test_the_core_imports_with_the_searchs_packages_blocked():
    code = _IMPORT_ALL.format(blocked=SEARCH_PACKAGES, core=CORE)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_the_nouns_need_the_standard_library_only():
    code = (
        "import autoslim.core.job, autoslim.core.result, autoslim.core.plan, autoslim.core.shape, sys\n"
        "print([name for name in ('torch', 'timm', 'numpy', 'ray', 'optuna', 'mlflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_every_part_of_the_package_is_in_the_core_or_above_it():
    above = {
        "api", "cli", "client", "config", "mcp", "progress", "report", "search", "service", "slimming", "store", "webhook",
    }  # fmt: skip
    parts = {module.name for module in pkgutil.iter_modules(autoslim.__path__)} - {"__main__"}
    assert set(CORE) <= parts
    assert parts - set(CORE) == above


FOUND_BY_NAME = {
    "autoslim.cli.__main__": "python -m autoslim.cli",
    "autoslim.methods.layers.mid_block": "for methods with a step between attention and MLP",
    "autoslim.report.tracking.served_model": "MLflow loads it from its file",
    "search_spaces": "a folder of YAML files",
    "workers.service.background_program": "for deploy/loopback and benchmarks/faults",
    "workers.service.program_group": "for deploy/loopback",
}


def test_every_module_is_imported_or_is_a_program():
    graph = grimp.build_graph("autoslim", "workers", "search_spaces", cache_dir=None)
    modules = {name for name in graph.modules if not name.startswith("autoslim.store.migrations.")}
    unused = {name for name in modules if not graph.find_modules_that_directly_import(name) and not graph.find_children(name)}
    sources = {name: Path(importlib.util.find_spec(name).origin).read_text() for name in unused | FOUND_BY_NAME.keys()}
    assert {name for name in unused if '__name__ == "__main__"' not in sources[name]} <= FOUND_BY_NAME.keys()


def test_no_module_imports_itself_by_way_of_others():
    graph = grimp.build_graph("autoslim", "workers", "search_spaces", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    # Raises a CycleError that names the circle; imports for types only count, too.
    graphlib.TopologicalSorter(imports).prepare()
