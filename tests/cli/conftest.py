import logging
import os
import sys
from collections.abc import Callable

import pytest

from autoslim.cli import main


@pytest.fixture(autouse=True)
def _no_settings_of_whoever_tests(monkeypatch):
    """Every flag has a variable, and AUTOSLIM_DATA also names the folder with the data sets of other tests. The cache of the tests stays:
    it is not that of whoever tests."""
    for name in [name for name in os.environ if name.startswith("AUTOSLIM_") and name != "AUTOSLIM_CACHE"]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _umask_of_whoever_tests():
    """Commands of the service's operator set their own."""
    mask = os.umask(0o022)
    os.umask(mask)
    yield
    os.umask(mask)


@pytest.fixture(autouse=True)
def _log_level_of_whoever_tests():
    """A command with `--quiet` sets its process's own; tests of other folders read the log of the same process."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


@pytest.fixture
def autoslim(monkeypatch, capsys, tmp_path) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line in `tmp_path`: exit code, stdout, stderr."""

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["autoslim", *arguments])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return command
