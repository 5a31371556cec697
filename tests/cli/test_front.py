"""`autoslim front` and `autoslim methods`."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys

import pytest
from helpers.sample_search import fill, make_job, make_results
from helpers.searched_folder import TIMING
from helpers.tiny import config_of, make_dense, slim

from autoslim.core.result import ParetoFront
from autoslim.core.run_folder import RunFolder
from autoslim.core.speed import SpeedReport
from autoslim.core.urls import default_url
from autoslim.export.artifact import write_config
from autoslim.methods import METHODS
from autoslim.store import Store

SPEED = SpeedReport(hardware="a processor", threads=1, timings=(TIMING,))


@pytest.fixture
def searched(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    job = make_job(str(folder))
    RunFolder(folder).write_job(job)
    with Store(default_url(str(folder))) as store:
        fill(store, job)
    return [trial.number for trial in ParetoFront.of(make_results()).results]


def test_the_front_is_a_table_below_the_dense_model(autoslim, searched):
    code, out, err = autoslim("front", "run")
    assert code == 0, err
    head, dense, *rows = out.splitlines()
    assert head.split()[:3] == ["trial", "method", "FLOPs"]
    assert dense.split()[:3] == ["dense", "4.608G", "100.0%"]
    assert [int(row.split()[0]) for row in rows] == searched


def test_all_trials_say_how_they_ended(autoslim, searched):
    code, out, err = autoslim("front", "run", "--all")
    assert code == 0, err
    rows = out.splitlines()[2:]
    assert len(rows) == len(make_results())
    assert [state for state in ("stopped", "failed", "infeasible", "running") if f"({state})" in out] == [
        "stopped", "failed", "infeasible", "running",
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["json", "csv"])
def test_programs_get_every_column(autoslim, searched, form):
    code, out, err = autoslim("front", "run", f"--{form}")
    assert code == 0, err
    rows = json.loads(out) if form == "json" else list(csv.DictReader(io.StringIO(out)))
    assert [int(row["number"]) for row in rows] == searched
    assert {"method", "flops", "accuracy", "params", "chosen", "training.epochs"} <= set(rows[0])


def test_a_delivered_model_says_how_fast_it_and_its_files_are(autoslim, searched, tmp_path):
    output, dense = RunFolder(tmp_path / "run"), make_dense()
    speed = SPEED.replace(timings=(TIMING, TIMING.replace(mode="onnxruntime", slimmed_ms=2.0, speedup=4.0)))
    files = speed.replace(timings=(TIMING.replace(mode="onnx-int8", speedup=3.0), TIMING.replace(batch=64, slimmed_ms=0.1)))
    output.model("50%").mkdir(parents=True)
    write_config(output.model("50%"), config_of("merge", dense, slim("merge", dense)).replace(speed=speed, form_speed=files))
    with Store(default_url(str(output.root))) as store:
        store.set_chosen(output.read_job().id, {"50%": searched[0]})
    code, out, err = autoslim("front", "run")
    assert code == 0, err
    head, _, cheapest, *others = out.splitlines()
    assert head.endswith("times as fast")
    assert cheapest.split()[-5:] == ["50%", "4.00", "(onnxruntime),", "3.00", "(onnx-int8)"]
    assert "onnx" not in "".join(others)


_WITHOUT = """
import sys
for name in ("torch", "timm", "ray", "mlflow", "optuna", "pandas", "pyarrow"):
    sys.modules[name] = None
from autoslim.cli import main
main()
"""


def test_it_is_shown_without_the_packages_that_take_seconds_to_import(searched, tmp_path):
    model, dense = RunFolder(tmp_path / "run").model("50%"), make_dense()
    model.mkdir(parents=True)
    write_config(model, config_of("merge", dense, slim("merge", dense)).replace(speed=SPEED))
    with Store(default_url(str(tmp_path / "run"))) as store:
        store.set_chosen(RunFolder(tmp_path / "run").read_job().id, {"50%": searched[0]})
    shown = subprocess.run([sys.executable, "-c", _WITHOUT, "front", "run"], cwd=tmp_path, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[2].split()[-2:] == ["2.00", "(eager)"]


def test_a_configuration_that_is_no_json_is_named(autoslim, searched, tmp_path):
    model = RunFolder(tmp_path / "run").model("50%")
    model.mkdir(parents=True)
    (model / "config.json").write_text("{")
    with Store(default_url(str(tmp_path / "run"))) as store:
        store.set_chosen(RunFolder(tmp_path / "run").read_job().id, {"50%": searched[0]})
    code, _, err = autoslim("front", "run")
    assert (code, "50%/config.json is not valid JSON" in err) == (2, True)


def test_what_is_no_search_is_refused(autoslim, searched, tmp_path):
    code, _, err = autoslim("front", "elsewhere")
    assert (code, "holds no search" in err) == (2, True)
    code, _, err = autoslim("front", "run", "--csv", "--json")
    assert (code, "--json and --csv exclude each other" in err) == (2, True)


def test_a_folder_without_a_store_gets_none(autoslim, searched, tmp_path):
    (tmp_path / "run/autoslim.db").unlink()
    for command in (("front", "run"), ("pick", "run", "--flops", "60%")):
        code, _, err = autoslim(*command)
        assert (code, "has no store of its own" in err) == (2, True)
    assert not (tmp_path / "run/autoslim.db").exists()


def test_every_method_is_listed_with_its_paper(autoslim):
    code, out, err = autoslim("methods")
    assert code == 0, err
    for method in METHODS.values():
        (line,) = [line for line in out.splitlines() if line.startswith(f"{method.name} ")]
        assert method.paper in line


def test_a_method_lists_the_knobs_that_a_user_sets(autoslim):
    code, out, err = autoslim("methods", "vit_slim", "--json")
    assert code == 0, err
    (found,) = json.loads(out)
    assert set(found["knobs"]) == {name for name, knob in METHODS["vit_slim"].ranges.items() if knob.searched}
    code, out, err = autoslim("methods", "vit_slim")
    assert code == 0, err
    assert all(any(line.startswith(f"{name} ") for line in out.splitlines()) for name in found["knobs"])
    code, _, err = autoslim("methods", "prune")
    assert (code, "METHOD is 'prune'; allowed: " in err) == (2, True)
