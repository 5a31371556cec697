"""The one model of a request: what it takes, what it refuses and in which words, and the search that it becomes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest

from autoslim.config import JobSpec, Placement, SpecError, flag_of, parse_yaml, read_json, read_mapping, read_yaml, validated
from autoslim.config.schema import FILE, job_schema, render
from autoslim.core.budget import Budget
from autoslim.core.constraints import CostLimits
from autoslim.core.job import SPEED_MODES, Resources, SearchJob

LEAST: dict[str, Any] = {"model": "deit_tiny_patch16_224", "data": "digits", "flops": ["50%"]}
HERE = Placement(output="out")


def job_of(**fields: Any) -> SearchJob:
    return read_mapping(LEAST | fields).to_job(id="j", placement=HERE)


def issues_of(**fields: Any) -> dict[str, str]:
    with pytest.raises(SpecError) as raised:
        read_mapping(LEAST | fields)
    return {issue.pointer: issue.problem for issue in raised.value.issues}


def test_the_least_spec_is_the_job_with_its_own_defaults() -> None:
    plain = SearchJob(
        id="j",
        model=job_of().model,
        dataset=job_of().dataset,
        budgets=(Budget.parse("50%"),),
        output="out",
    )
    digits = {"training": plain.training.replace(flip=False), "base": plain.base.replace(flip=False)}
    # A job that was stored before there was a prior has none; a new one has.
    assert job_of() == plain.replace(prior="auto", **digits)
    assert job_of(data="flowers").training == plain.training


def test_every_field_arrives_in_the_job() -> None:
    job = job_of(
        weights="w.safetensors",
        model_args={"depth": 4, "patch_size": [4, 4]},
        image_size=24,
        train_limit=100,
        flops=["2.3G", 1300000],
        space={"methods": {"sit": None}},
        trials=5,
        epochs=1,
        batch_size=8,
        lr=1e-3,
        augmentation="strong",
        flip=True,
        base_epochs=2.5,
        sampler="random",
        scheduler="median",
        seed=7,
        class_query=True,
        bound="mean",
        speed="eager,onnxruntime",
    )
    assert job.model.to_dict() == {
        "name": "deit_tiny_patch16_224",
        "weights": str(Path("w.safetensors").absolute()),
        "args": {"depth": 4, "patch_size": [4, 4]},
        "image_size": [24, 24],
    }
    assert job.dataset.train_limit == 100
    assert [budget.flops for budget in job.budgets] == [2_300_000_000, 1_300_000]
    assert json.loads(job.space) == {"methods": {"sit": None}}
    assert (job.trials, job.sampler, job.scheduler, job.seed, job.class_query, job.bound) == (
        5,
        "random",
        "median",
        7,
        True,
        "mean",
    )
    assert job.speed == ("eager", "onnxruntime")
    tuned, base = job.training, job.base
    assert (tuned.epochs, tuned.batch_size, tuned.lr, tuned.augmentation, tuned.flip) == (1.0, 8, 1e-3, "strong", True)
    assert (base.epochs, base.batch_size, base.lr, base.augmentation, base.distillation) == (2.5, 8, 1e-3, "strong", 0.0)
    assert SearchJob.from_json(job.to_json()) == job


def test_a_space_written_out_in_the_spec_is_read_as_from_a_file() -> None:
    from autoslim.search import load_space

    space = load_space(job_of(space={"methods": {"vit_slim": {"keep": {"low": 0.2, "high": 0.4}}}}).space)
    assert list(space.methods) == ["vit_slim"]
    assert space.methods["vit_slim"]["keep"].high == 0.4


def test_the_placement_is_the_operators() -> None:
    placement = Placement(
        output="/o", resources=Resources(gpu=0.5), concurrency=3, address="auto", storage="sqlite:////s", tracking_uri="http://m"
    )
    job = read_mapping(LEAST).to_job(id="01J", placement=placement)
    assert (job.id, job.output, job.resources, job.concurrency) == ("01J", "/o", Resources(gpu=0.5), 3)
    assert (job.address, job.storage, job.tracking_uri) == ("auto", "sqlite:////s", "http://m")
    for field in ("output", "resources", "concurrency", "address", "storage", "tracking_uri", "id"):
        assert "is not a field" in issues_of(**{field: "x"})[f"/{field}"]


@pytest.mark.parametrize("field", ["storage", "tracking_uri"])
@pytest.mark.parametrize(
    "url",
    ["postgresql+psycopg://autoslim:canary@db/autoslim", "postgresql://db/autoslim?password=canary", "https://me:canary@mlflow"],
)
def test_a_password_in_a_placement_is_refused_and_not_repeated(field: str, url: str) -> None:
    with pytest.raises(SpecError, match=rf"^{field} has a password in it, .* PGPASSWORD or PGPASSFILE") as found:
        validated(Placement, lambda: Placement.model_validate({"output": "/o", field: url}))
    assert "canary" not in str(found.value)


def test_a_placement_may_name_a_user_and_a_file() -> None:
    url = "postgresql+psycopg://autoslim@db/autoslim?sslkey=/certs/client.pem"
    assert Placement(output="/o", storage=url, tracking_uri=url).tracking_uri == url


@pytest.mark.parametrize(
    ("fields", "pointer", "problem"),
    [
        ({"trials": 0}, "/trials", "is 0; allowed: 1 and more"),
        ({"trials": True}, "/trials", "is True; allowed: a whole number"),
        ({"trials": "3"}, "/trials", "is '3'; allowed: a whole number"),
        ({"epochs": -1}, "/epochs", "is -1; allowed: above 0"),
        ({"lr": float("inf")}, "/lr", "is inf; allowed: a finite number"),
        ({"priority": 10}, "/priority", "is 10; allowed: 0 to 9"),
        ({"sampler": "genetic"}, "/sampler", "is 'genetic'; allowed: forest, tpe, nsga2, nsga3, gp, random"),
        ({"speed": "eager,fast"}, "/speed/1", "is 'fast'; allowed: eager, compiled, onnxruntime"),
        ({"forms": "onnx,int8"}, "/forms/1", "is 'int8'; allowed: onnx, pt2, timm, openvino, onnx-int8"),
        ({"max_drop": -1}, "/max_drop", "is -1; allowed: 0 to 99"),
        ({"min_accuracy": "80"}, "/min_accuracy", "is '80'; allowed: a share of the images such as 80% or 0.8"),
        ({"max_drop": 1, "min_accuracy": "80%"}, "/min_accuracy", "is '80%' beside max_drop 1; allowed: one of them"),
        ({"max_cost": 20}, "/max_cost", "is 20 without a price; allowed with price_per_hour above 0 only"),
        ({"flops": []}, "/flops", "is needed, unless latency, params, max_drop or min_accuracy is given"),
        ({"latency": "5"}, "/latency", "is '5'; allowed: a time and a batch size such as 5ms@1, 0.8s@8 or 5ms (batch 1)"),
        ({"latency": "5ms@0"}, "/latency", "is '5ms@0'; allowed: a batch of 1 to 1024 images"),
        ({"params": "12 Mio"}, "/params", "is '12 Mio'; allowed: a number of parameters such as 12M, 850K or 1300000"),
        (
            {"latency_mode": "compiled"},
            "/latency_mode",
            "is 'compiled', but no latency is limited; allowed with a latency only",
        ),
        (
            {"latency": "5ms", "bound": "mean"},
            "/bound",
            "is 'mean', but a latency holds for every image; allowed with a latency: max",
        ),
        ({"objective": "tokens"}, "/objective", "is 'tokens'; allowed: labels, features"),
        (
            {"objective": "features", "weights": "scratch"},
            "/objective",
            "is 'features' with random weights, which have no features to agree with; allowed: trained weights",
        ),
        (
            {"objective": "features", "model": ["deit_tiny_patch16_224", "deit_small_patch16_224"]},
            "/objective",
            "is 'features' with 2 models, whose features differ; allowed: one model, which the slimmed ones agree with",
        ),
        (
            {"objective": "features", "teacher": "deit_small_patch16_224"},
            "/objective",
            "is 'features' with the teacher 'deit_small_patch16_224'; allowed: no teacher but the model itself",
        ),
        (
            {"objective": "features", "adapt": True},
            "/adapt",
            "is true, but there are no labels to train the dense model on; allowed with objective 'labels' only",
        ),
        (
            {"objective": "features", "class_query": True},
            "/class_query",
            "is true, but patches are features, which the last block computes; allowed with objective 'labels' only",
        ),
        ({"probe": "digits"}, "/probe", "is 'digits' with objective 'labels'; allowed with objective 'features' only"),
        ({"flops": ["50%", "0"]}, "/flops/1", "budget '0': FLOPs must be above zero"),
        ({"flops": ["120%"]}, "/flops/0", "budget '120%': a share must be above 0 % and at most 100 %"),
        ({"space": 3}, "/space", "is 3; allowed: a name, a file, or a mapping"),
        ({"name": "My job"}, "/name", "is 'My job'; allowed: 1 to 63 lower-case letters, digits and hyphens"),
        ({"model": "a\x00b"}, "/model", r"is 'a\x00b'; allowed: no control characters"),
        ({"data": ""}, "/data", "is empty"),
        ({"data": "a" * 5000}, "/data", "is too long; allowed: at most 4096 characters"),
        ({"model_args": {"depth": {"a": 1}}}, "/model_args/depth", "is {'a': 1}; allowed: numbers, true, false"),
        ({"model_args": {"a/b~": 1}}, "/model_args/a~1b~0", "has 'a/b~'; allowed: names"),
        ({"tirals": 3}, "/tirals", "is not a field of a job; did you mean trials?"),
        ({"schema_version": 2}, "/schema_version", "is 2; allowed: 1"),
    ],
)
def test_a_mistake_is_told_with_its_field_its_value_and_what_is_allowed(
    fields: dict[str, Any], pointer: str, problem: str
) -> None:
    issues = issues_of(**fields)
    assert list(issues) == [pointer]
    assert issues[pointer].startswith(problem)


def test_all_mistakes_are_told_at_once() -> None:
    assert set(issues_of(trials=0, epochs=0, bound="min")) == {"/trials", "/epochs", "/bound"}


def test_what_is_missing_is_told_by_flag_on_the_command_line() -> None:
    with pytest.raises(SpecError) as raised:
        read_mapping({"model": "m"})
    assert (
        str(raised.value.named(flag_of))
        == "--data is needed\n--flops is needed, unless latency, params, max_drop or min_accuracy is given"
    )
    assert raised.value.exit_code == 2


def test_limits_are_a_budget_of_their_own_or_hold_beside_others() -> None:
    alone = read_mapping({"model": "m", "data": "d", "latency": "5ms", "params": 12_000_000})
    assert alone.limits == CostLimits(params=12_000_000, latency_ms=5.0)
    assert [budget.to_dict() for budget in alone.budgets] == [{"label": "5ms@1+12M-params", "flops": None, "share": 1.0}]
    beside = read_mapping({"model": "m", "data": "d", "flops": "50%", "latency": "0.5s@8", "latency_mode": "compiled"})
    assert beside.limits == CostLimits(latency_ms=500.0, batch=8, mode="compiled")
    assert [budget.label for budget in beside.budgets] == ["50%"]


def test_a_huge_value_is_not_quoted_whole() -> None:
    assert len(issues_of(sampler="x" * 100_000)["/sampler"]) < 300
    # The names of all settings are in it.
    assert len(issues_of(**{"k" * 4000: 1})["/" + "k" * 4000]) < 1000


@pytest.mark.parametrize("text", ["[1]", '"text"', "{", "", "[" * 100_000, '{"a":' * 5_000, "\ud800", '{"trials": NaN}'])
def test_malformed_json_is_a_spec_error(text: str) -> None:
    with pytest.raises(SpecError):
        read_json(text.encode("utf-8", "surrogatepass"))


def test_a_spec_survives_json() -> None:
    spec = read_mapping(
        LEAST | {"space": {"methods": {"sit": None}}, "model_args": {"depth": 2, "patch_size": [4, 4], "bias": None}}
    )
    assert read_json(spec.model_dump_json()) == spec


YAML = """
model: deit_tiny_patch16_224
data: digits
flops: 50%        # one budget needs no list
lr: 1e-4
speed: none
model_args: {depth: 6, patch_size: [4, 4]}
"""


def test_yaml_is_read_as_it_is_meant(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(YAML)
    spec = read_yaml(file)
    assert (spec.flops, spec.lr, spec.speed, spec.model_args["patch_size"]) == (("50%",), 1e-4, (), [4, 4])


def test_flags_replace_the_files_fields() -> None:
    assert parse_yaml(YAML, source="job.yaml", changes={"trials": 3, "flops": ["1G"]}).flops == ("1G",)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (YAML + "trials: 0\n", "job.yaml, line 8: trials is 0; allowed: 1 and more"),
        (YAML.replace("50%", "\n  - 50%\n  - much"), "job.yaml, line 6: flops[1]: budget 'much' is not valid"),
        (YAML + "lr: 1\n", "job.yaml, line 8: the spec is not valid YAML: the key 'lr' is given twice"),
        (YAML + "name: &a x\nspace: *a\n", "job.yaml, line 9: the spec is not valid YAML: the alias *a is not read"),
        ("model: m\ndata: d\n", "job.yaml: flops is needed"),
        ("model: [\n", "job.yaml, line 2: the spec is not valid YAML"),
        ("", "job.yaml: the spec is None; allowed: an object"),
        ("a: " + "[" * 5000, "job.yaml"),
        (
            "!!python/object/apply:os.system [id]",
            "job.yaml, line 1: the spec is not valid YAML: could not determine a constructor",
        ),
    ],
)
def test_a_mistake_in_a_file_is_told_with_its_line(text: str, told: str) -> None:
    with pytest.raises(SpecError) as raised:
        parse_yaml(text, source="job.yaml")
    assert str(raised.value).startswith(told)


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="is not UTF-8 text"):
        read_yaml(file)
    file.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(SpecError, match="larger than 1048576 bytes"):
        read_yaml(file)
    with pytest.raises(SpecError, match="cannot be read: No such file"):
        read_yaml(tmp_path / "none.yaml")


def test_the_committed_schema_is_current() -> None:
    assert FILE.read_text() == render(), "python -m autoslim.config.schema writes it"


@pytest.mark.parametrize("fields", [{}, {"flops": "50%"}, {"flops": [850000000, ".5G"]}, {"speed": "none"}, {"name": "a-1"}])
def test_the_schema_takes_what_the_model_takes(fields: dict[str, Any]) -> None:
    jsonschema.validate(LEAST | fields, job_schema())
    read_mapping(LEAST | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"trials": 0},
        {"flops": []},
        {"flops": "much"},
        {"x": 1},
        {"name": "-"},
        {"speed": "fast"},
        {"model_args": {"a": {}}},
        {"data": ""},
    ],
)
def test_the_schema_refuses_what_the_model_refuses(fields: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(LEAST | fields, job_schema())
    issues_of(**fields)


def test_choices_are_those_of_the_parts_that_carry_them_out() -> None:
    from autoslim.core.recipe import PRECISIONS
    from autoslim.data.augment import AUGMENTATIONS

    fields = JobSpec.model_fields
    assert set(get_args(fields["augmentation"].annotation)) == set(AUGMENTATIONS)
    assert set(get_args(fields["precision"].annotation)) == set(PRECISIONS)
    assert fields["speed"].default == SPEED_MODES


def test_the_model_needs_neither_torch_nor_a_web_framework() -> None:
    import subprocess
    import sys

    code = "import autoslim.config, sys; print([n for n in ('torch', 'timm', 'numpy', 'ray', 'fastapi', 'httpx') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
