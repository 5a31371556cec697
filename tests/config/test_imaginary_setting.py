"""Adding a setting takes one field of the spec, and the attribute of `SearchJob` that its use reads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIELD = """
    patience: int = setting(
        "Trials to wait for.", Rules(group=Group.SEARCH, job=(JobField("patience"),), resumable=True), ge=1
    )
"""
ATTRIBUTE = "\n    patience: int = 3"

SEEN = """
import dataclasses, json, sys
from pathlib import Path
import typer
from autoslim.cli.app import app
from autoslim.cli.job_file import commented_file
from autoslim.cli.parsing import CliInput, spec_of
from autoslim.cli.resume import resumed_job
from autoslim.config import JobSpec, Placement, SpecError, parse_yaml, read_json
from autoslim.config.reference import reference
from autoslim.config.schema import job_schema
from autoslim.service.openapi import render
from autoslim.service.dry_run.dry_runner import deciding_fields

yaml = "model: m\\ndata: digits\\nflops: 50%\\n"
spec = parse_yaml(yaml + "patience: 5\\n", source="job.yaml")
job = spec.to_job(id="j", placement=Placement(output="/o"))
changed = resumed_job(job, CliInput(flags={"patience": 7}, environment={}), None, Path("/o"))
commands = typer.main.get_command(app).commands
options = {name: {flag: option.envvar for option in commands[name].params for flag in option.opts} for name in commands}
try:
    spec_of(CliInput(flags={"model": "m", "data": "d", "flops": ["50%"], "patience": 0}, environment={}), None)
except SpecError as error:
    refused = str(error)
(row,) = [row for row in reference() if row.name == "patience"]
json.dump({
    "variables": {name: options[name]["--patience"] for name in ("search", "plan", "submit")},
    "slim": "--patience" in options["slim"],
    "job": job.patience,
    "default": parse_yaml(yaml, source="job.yaml").patience,
    "back": JobSpec.of_job(job).patience,
    "http": read_json(spec.model_dump_json()).patience,
    "schema": job_schema()["properties"]["patience"],
    "openapi": json.loads(render())["components"]["schemas"]["JobSpec"]["properties"]["patience"],
    "resumed": changed.patience,
    "key": deciding_fields(spec)["patience"],
    "file": "# Trials to wait for. Allowed: 1 and more.\\n# patience: 3\\n" in commented_file(),
    "refused": refused,
    "row": dataclasses.asdict(row),
}, sys.stdout)
"""


@pytest.mark.slow
@pytest.mark.short
def test_a_new_field_of_the_spec_is_everywhere_without_another_edit(tmp_path: Path) -> None:
    for package in ("autoslim", "workers", "search_spaces"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    _insert(tmp_path / "autoslim/config/job_spec.py", before="    scheduler: PrunerName = ", text=FIELD.lstrip("\n"))
    _insert(tmp_path / "autoslim/core/job.py", before="\n    seed: int = 0", text=ATTRIBUTE)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AUTOSLIM_")}
    done = subprocess.run(
        [sys.executable, "-c", SEEN],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    schema = {"default": 3, "description": "Trials to wait for.", "minimum": 1, "title": "Patience", "type": "integer"}
    assert json.loads(done.stdout) == {
        "variables": dict.fromkeys(("search", "plan", "submit"), "AUTOSLIM_PATIENCE"),
        "slim": False,
        "job": 5,
        "default": 3,
        "back": 5,
        "http": 5,
        "schema": schema,
        "openapi": schema,
        "resumed": 7,
        "key": 5,
        "file": True,
        "refused": "--patience is 0; allowed: 1 and more",
        "row": {
            "name": "patience",
            "group": "Search",
            "flag": "--patience",
            "variable": "AUTOSLIM_PATIENCE",
            "type": "whole number",
            "needed": False,
            "default": "3",
            "allowed": "1 and more",
            "help": "Trials to wait for.",
            "resumable": True,
            "decides_plan": True,
        },
    }


def _insert(file: Path, *, before: str, text: str) -> None:
    source = file.read_text()
    assert source.count(before) == 1
    file.write_text(source.replace(before, text + before))
