"""The example for Slurm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import parse
from helpers.manifests import DEPLOY

from autoslim.core.urls import default_url, sqlite_file

SLURM = DEPLOY / "slurm" / "search.sbatch"

RAY = f"""#!{sys.executable}
import json, os, pathlib, sys
token = pathlib.Path(os.environ["RAY_AUTH_TOKEN_PATH"])
pathlib.Path(os.environ["RECORD"]).write_text(json.dumps({{
    "arguments": sys.argv[1:], "mode": os.environ["RAY_AUTH_MODE"], "token": str(token), "length": len(token.read_text().strip()),
    "permissions": token.stat().st_mode & 0o777,
}}))
"""


@pytest.fixture
def submit(tmp_path: Path):
    """Runs the script with stand-ins for Slurm's commands and Ray's; returns what Ray was started with."""
    programs = tmp_path / "bin"
    programs.mkdir()
    stand_ins = {"scontrol": "#!/bin/sh\nprintf 'node1\\nnode2\\n'\n", "srun": '#!/bin/sh\nshift\nexec "$@"\n', "ray": RAY}
    for name, text in stand_ins.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)

    def start(*arguments: str, gpus: int = 4) -> dict[str, Any]:
        slurm = {
            "JOB_ID": "4711",
            "JOB_NODELIST": "node[1-2]",
            "JOB_NUM_NODES": "2",
            "CPUS_PER_TASK": "32",
            "GPUS_ON_NODE": str(gpus),
        }
        environment = {"PATH": f"{programs}:{os.environ['PATH']}", "RECORD": str(tmp_path / "record.json")}
        environment |= {f"SLURM_{name}": value for name, value in slurm.items()}
        subprocess.run([SLURM, *arguments], env=environment, cwd=tmp_path, check=True, timeout=60)
        return json.loads((tmp_path / "record.json").read_text())

    return start


def test_slurm_starts_ray_on_every_node_and_the_search_on_the_first(submit, tmp_path: Path):
    found = submit("run", "--model", "deit_small_patch16_224", "--data", "flowers", "--flops", "50%")
    separator = found["arguments"].index("--")
    ray, search = found["arguments"][:separator], parse(found["arguments"][separator + 1 :])
    assert ray[:5] == ["symmetric-run", "--address", "node1:24711", "--min-nodes", "2"]
    assert (search["address"], search["resources"], search["output"]) == ("auto", "gpu=1,cpu=8", str(tmp_path / "run"))
    assert search["resume"] is False


@pytest.mark.parametrize("asked", [["--resources", "gpu=4,cpu=32"], ["--resources=gpu=4,cpu=32"]], ids=["apart", "joined"])
@pytest.mark.parametrize("resumed", [False, True], ids=["new", "resumed"])
def test_slurm_gives_a_trial_the_resources_that_are_asked_for(submit, tmp_path: Path, asked: list[str], resumed: bool):
    if resumed:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "autoslim.db").touch()
    words = submit("run", "--model", "deit_small_patch16_224", "--data", "flowers", "--flops", "50%", *asked)["arguments"]
    search = parse(words[words.index("--") + 1 :])
    assert (search["resources"], search["resume"]) == ("gpu=4,cpu=32", resumed)


def test_slurm_refuses_an_output_that_is_no_folder(submit, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with pytest.raises(subprocess.CalledProcessError):
        submit("s3://bucket/run", "--model", "deit_small_patch16_224", "--data", "flowers", "--flops", "50%")
    assert "the first argument is s3://bucket/run; allowed: a folder" in capfd.readouterr().err
    assert not (tmp_path / "record.json").exists()


def test_ray_takes_the_options_that_slurm_gives_it_on_the_first_node_and_on_the_others(submit):
    """`ray symmetric-run` passes on to `ray start` what is not its own. It is not run: at its end it stops every Ray of the machine."""
    import click
    from ray.scripts.scripts import cli, start
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

    command, *words = submit("run", "--model", "deit_small_patch16_224", "--data", "flowers", "--flops", "50%")["arguments"]
    own = words[: words.index("--")]
    symmetric_run = cli.get_command(click.Context(cli), command)
    assert symmetric_run is not None
    given = symmetric_run.make_context(command, list(words)).params
    assert (given["address"], given["min_nodes"]) == ("node1:24711", 2)

    passed_on = curate_and_validate_ray_start_args(own)
    for first_words in (["--head", "--node-ip-address=10.0.0.1", "--port=24711"], ["--address", "node1:24711", "--block"]):
        params = start.make_context("start", [*first_words, *passed_on]).params
        assert (params["num_cpus"], params["num_gpus"], params["object_store_memory"]) == (32, 4, 200_000_000)
    with pytest.raises(click.UsageError, match="--num-cores"):
        start.make_context("start", ["--head", *passed_on, "--num-cores", "32"])


def test_slurm_asks_for_a_token_of_the_jobs_own_and_removes_it(submit, tmp_path: Path):
    found = submit("run", "--model", "deit_small_patch16_224", "--data", "flowers", "--flops", "50%", gpus=0)
    assert (found["mode"], found["length"], found["permissions"]) == ("token", 64, 0o600)
    assert found["token"].startswith(str(tmp_path))
    assert not Path(found["token"]).exists()
    assert "--resources" not in found["arguments"]


def test_the_same_line_again_continues_the_search(submit, tmp_path: Path):
    folder = tmp_path / "run"
    folder.mkdir()
    (Path(sqlite_file(default_url(folder)) or "")).touch()
    found = submit("run", "--model", "deit_small_patch16_224", "--data", "flowers", "--flops", "50%")
    search = parse(found["arguments"][found["arguments"].index("--") + 1 :])
    assert search["resume"] is True
    assert search["model"] in (None, [], ())
