"""Where a request's fields come from: defaults, a job file, the environment, flags, each over the one before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoslim.cli.parsing import CliInput, new_job, spec_of
from autoslim.cli.resume import resumed_job
from autoslim.config import JobSpec, Placement, read_mapping
from autoslim.errors import RequestError

JOB_FILE = """\
model: deit_tiny_patch16_224
data: digits
flops: [50%, 70%]
trials: 7
epochs: 2
"""
PLANNED = [
    "plan", "--model-args", "patch_size=4,embed_dim=32,depth=4,num_heads=2", "--image-size", "16", "--from-scratch",
    "--space", "smoke", "--json",
]  # fmt: skip


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    file = tmp_path / "job.yaml"
    file.write_text(JOB_FILE)
    return file


def cli_input(environment: dict | None = None, **flags: object) -> CliInput:
    return CliInput(flags=flags, environment=environment or {})


def test_each_layer_is_over_the_one_before(job_file: Path):
    spec = spec_of(cli_input({"trials": 8, "epochs": 4.0}, trials=9), job_file)
    assert (spec.trials, spec.epochs, spec.flops, spec.batch_size) == (9, 4.0, ("50%", "70%"), 64)


@pytest.mark.slow
@pytest.mark.short
def test_the_command_line_reads_the_file_the_environment_and_its_flags(autoslim, job_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AUTOSLIM_TRIALS", "5")
    monkeypatch.setenv("AUTOSLIM_FLOPS", "60% 80%")
    code, out, err = autoslim(*PLANNED, str(job_file))
    assert code == 0, err
    assert (json.loads(out)["trials"], list(json.loads(out)["budgets"])) == (5, ["60%", "80%"])
    code, out, err = autoslim(*PLANNED, str(job_file), "--trials", "3", "--flops", "40%")
    assert code == 0, err
    assert (json.loads(out)["trials"], list(json.loads(out)["budgets"])) == (3, ["40%"])


@pytest.mark.parametrize(
    ("environment", "flags", "said"),
    [
        ({}, {"trials": 0}, r"^--trials is 0; allowed: 1 and more$"),
        ({"trials": 0}, {}, r"^AUTOSLIM_TRIALS in the environment is 0; allowed"),
        ({"trials": 0}, {"trials": -1}, r"^--trials is -1"),
        ({}, {"sampler": "genetic"}, r"^--sampler is 'genetic'; allowed: forest, tpe, nsga2, nsga3, gp, random$"),
        ({}, {"flops": ["much"]}, r"^--flops:.*'much' is not valid"),
        ({}, {"weights": Path("w"), "from_scratch": True}, "exclude each other"),
        ({}, {"model_args": "depth"}, "--model-args: 'depth' is not of the form name=value"),
    ],
)
def test_a_mistake_is_told_where_it_was_made(job_file: Path, environment: dict, flags: dict, said: str):
    with pytest.raises(RequestError, match=said):
        spec_of(cli_input(environment, **flags), job_file)


def test_a_mistake_in_the_file_is_told_with_its_line_unless_a_flag_replaces_it(job_file: Path):
    job_file.write_text(JOB_FILE.replace("trials: 7", "trials: many"))
    with pytest.raises(RequestError, match=r"job.yaml, line 4: trials is 'many'; allowed"):
        spec_of(cli_input(), job_file)
    assert spec_of(cli_input(trials=3), job_file).trials == 3


def test_what_is_missing_is_named_all_at_once():
    with pytest.raises(RequestError, match=r"--model is needed\n--data is needed\n--flops is needed"):
        spec_of(cli_input(), None)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"weights": "scratch", "model_args": {"depth": 4, "drop_path_rate": 0.1}, "image_size": 32, "train_limit": 100},
        {"epochs": 1.5, "batch_size": 8, "lr": 1e-3, "augmentation": "none", "flip": True, "base_epochs": 2.0, "base_lr": 2e-3},
        {
            "space": {"methods": {"sit": {}}},
            "sampler": "random",
            "seed": 3,
            "class_query": True,
            "bound": "mean",
            "speed": "none",
        },
    ],
)
def test_a_job_says_what_was_asked_for(fields: dict):
    spec = read_mapping({"model": "m", "data": "digits", "flops": ["50%"], **fields})
    job = spec.to_job(id="j", placement=Placement(output="/o"))
    again = JobSpec.of_job(job)
    assert again.to_job(id="j", placement=Placement(output="/o")) == job
    assert {name: getattr(again, name) for name in fields} == {name: getattr(spec, name) for name in fields}


def begun(job_file: Path):
    return new_job(cli_input(), job_file, job_file.parent)


def test_a_resumed_search_takes_more_trials_and_another_cluster(job_file: Path):
    job = begun(job_file)
    again = resumed_job(job, cli_input({"epochs": 9.0}, trials=48, address="auto", speed="none"), None, job_file.parent)
    assert again == job.replace(trials=48, address="auto", speed=())
    assert resumed_job(job, cli_input(trials=48), job_file, job_file.parent) == job.replace(trials=48)


def test_a_resumed_search_knows_what_it_reuses_by_any_path_to_it(job_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(job_file.parent)
    job = new_job(cli_input(reuse=["runs/a", "digits-1"]), job_file, job_file.parent)
    assert job.reuse == (str(job_file.parent / "runs" / "a"), "digits-1")
    again = ["./runs/a", "digits-1"]
    assert resumed_job(job, cli_input(reuse=again), None, job_file.parent) == job
    with pytest.raises(RequestError, match="--reuse is"):
        resumed_job(job, cli_input(reuse=["runs/b"]), None, job_file.parent)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"epochs": 5.0}, r"--epochs is 5.0, but this search started with 2.0, and a resumed search cannot change it"),
        ({"flops": ["50%"]}, "--flops is"),
        ({"from_scratch": True}, "--from-scratch is 'scratch', but this search started with 'pretrained'"),
        ({"storage": "sqlite:////elsewhere.db"}, "--storage is"),
    ],
)
def test_a_resumed_search_refuses_what_would_make_another_one(job_file: Path, flags: dict, said: str):
    with pytest.raises(RequestError, match=said):
        resumed_job(begun(job_file), cli_input(**flags), None, job_file.parent)


def test_a_resumed_search_refuses_another_job_file(job_file: Path):
    job = begun(job_file)
    job_file.write_text(JOB_FILE.replace("epochs: 2", "epochs: 6"))
    with pytest.raises(RequestError, match=r"--epochs is 6.0, but"):
        resumed_job(job, cli_input(), job_file, job_file.parent)
