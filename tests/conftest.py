"""Which process of pytest takes what.

What tests need is in `helpers.session`. With `--numprocesses`, the process that hands the tests out runs none, and does not wait for torch;
of the tests' files it reads none, so that only the others collect them.
"""

import os
import re
from pathlib import Path

import pytest

# One thread a process: the models are so small that several threads, on a machine with other work, take twenty times as long. Before torch
# is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Its asserts are shown with their values, as those of a test file are.
pytest.register_assert_rewrite("helpers.method_contract")

_ALL_SLOW = re.compile(r"^pytestmark = (CI_ONLY|pytest\.mark\.slow|\[\s*pytest\.mark\.slow)\b", re.MULTILINE)

SHORT_BY_NAME = ("CI_ONLY", "every_method", "marks_of", "database_url")
"""What gives the mark `short` without its name."""
_SOME_SHORT = re.compile(rf"mark\.short\b|\b({'|'.join(SHORT_BY_NAME)})\b")


def _leaves_out_slow_tests(config: pytest.Config) -> bool:
    return "not slow" in config.getoption("markexpr")


def pytest_configure(config: pytest.Config) -> None:
    hands_out = config.getoption("numprocesses", None) and "PYTEST_XDIST_WORKER" not in os.environ
    if hands_out:
        return
    config.pluginmanager.import_plugin("helpers.session")
    if not _leaves_out_slow_tests(config):
        # By its entry point every process of pytest would import it, for eight seconds; only slow tests are schemathesis'.
        config.pluginmanager.import_plugin("schemathesis.pytest.plugin")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file all of whose tests `-m` leaves out is not imported, as far as its text tells."""
    if collection_path.suffix != ".py":
        return None
    if _leaves_out_slow_tests(config):
        return True if _ALL_SLOW.search(collection_path.read_text()) else None
    if config.getoption("markexpr") == "short":
        return None if _SOME_SHORT.search(collection_path.read_text()) else True
    return None
