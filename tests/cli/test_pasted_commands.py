"""Commands that are printed can be pasted, whatever folders and files are called."""

from __future__ import annotations

import ast
import shlex
import sys

import pytest

from autoslim.cli.load_line import load_line

NAMES = ["runs/50%", "it's $HOME", 'a "quoted" \\ name', "größe ü?#%20", "line\nbreak"]


@pytest.mark.parametrize("name", NAMES)
def test_the_line_that_loads_a_model_names_its_folder(name):
    program, option, code = shlex.split(load_line(name).removeprefix("Load"))
    assert (program, option) == (sys.executable, "-c")
    _, shown = ast.parse(code).body
    assert [node.value for node in ast.walk(shown) if isinstance(node, ast.Constant)] == [name]


def test_what_follows_a_new_job_file_names_it(autoslim, tmp_path):
    code, _, err = autoslim("init", "my job's.yaml")
    assert code == 0, err
    commands = [shlex.split(command) for command in err.strip().removeprefix("Next: ").split(" | ")]
    assert [command[:3] for command in commands] == [["autoslim", verb, "my job's.yaml"] for verb in ("plan", "search", "submit")]
