"""Several models in a spec: what pairs with them, what is refused, and that one model is what it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from autoslim.cli.flags import job_flags, with_flags
from autoslim.cli.parsing import CliInput, fields_of
from autoslim.cli.resume import resumed_job
from autoslim.cli.slim import slim
from autoslim.config import Commands, JobSpec, Placement, SpecError, parse_yaml, read_json, read_mapping
from autoslim.core.job import ModelSpec, SearchJob
from autoslim.errors import RequestError

HERE = Placement(output="/o")
ONE: dict[str, Any] = {"model": "vit_tiny_patch16_224", "data": "digits", "flops": ["50%"]}
TWO = ONE | {"model": ["vit_tiny_patch16_224", "deit_tiny_patch16_224"]}


def job_of(values: dict[str, Any]) -> SearchJob:
    return read_mapping(values).to_job(id="j", placement=HERE)


def typed(*arguments: str) -> JobSpec:
    seen: list[CliInput] = []

    @with_flags(job_flags(Commands.SEARCH))
    def command(context: typer.Context) -> None:
        seen.append(CliInput.of(context))

    program = typer.Typer()
    program.command()(command)
    program(args=list(arguments), standalone_mode=False)
    return read_mapping(fields_of(seen[0], JobSpec))


def test_a_list_of_one_model_is_that_model() -> None:
    one = read_mapping(ONE)
    assert read_mapping(ONE | {"model": [ONE["model"]], "weights": ["pretrained"]}) == one
    assert one.model_dump(mode="json")["model"] == "vit_tiny_patch16_224"
    assert job_of(ONE).more_models == ()


def test_models_are_read_from_flags_yaml_json_python_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read_mapping(TWO)
    flags = [text for name in TWO["model"] for text in ("--model", name)]
    assert typed(*flags, "--data", "digits", "--flops", "50%") == expected
    assert parse_yaml("model: [vit_tiny_patch16_224, deit_tiny_patch16_224]\ndata: digits\nflops: 50%", source="y") == expected
    assert read_json(expected.model_dump_json()) == expected
    assert JobSpec(**TWO) == expected
    monkeypatch.setenv("AUTOSLIM_MODEL", "vit_tiny_patch16_224\ndeit_tiny_patch16_224")
    assert typed("--data", "digits", "--flops", "50%") == expected
    monkeypatch.setenv("AUTOSLIM_MODEL", "./my models/vit tiny")
    assert typed("--data", "digits", "--flops", "50%").model == "./my models/vit tiny"


@pytest.mark.parametrize(
    ("timm_calls_it", "name"),
    [
        ("local-dir:/models/vit", "/models/vit"),
        ("local-dir:./vit", "./vit"),
        ("hf-hub:timm/vit_tiny_patch16_224.augreg_in21k", "hf://timm/vit_tiny_patch16_224.augreg_in21k"),
        ("hf_hub:timm/vit_tiny_patch16_224", "hf://timm/vit_tiny_patch16_224"),
        ("hf://timm/vit_tiny_patch16_224", "hf://timm/vit_tiny_patch16_224"),
        ("./local-dir:vit", "./local-dir:vit"),
    ],
)
def test_models_may_be_named_by_timms_sources(timm_calls_it: str, name: str) -> None:
    assert read_mapping(ONE | {"model": timm_calls_it}).model == name
    assert read_mapping(TWO | {"model": [timm_calls_it, "deit_tiny_patch16_224"]}).model == (name, "deit_tiny_patch16_224")
    job = job_of(ONE | {"teacher": timm_calls_it})
    assert job.teacher is not None
    assert job.teacher.name == name


@pytest.mark.parametrize("weights", ["pretrained", "scratch", ["/w/a.pth", "scratch"], ["s3://b/a.pth", "scratch"]])
def test_weights_are_for_all_models_or_one_for_each(weights: Any) -> None:
    job = job_of(TWO | {"weights": weights, "model_args": {"depth": 2}, "image_size": 32})
    each = [weights, weights] if isinstance(weights, str) else weights
    assert [model.weights for model in job.models] == each
    assert [model.name for model in job.models] == TWO["model"]
    assert {(model.args["depth"], model.image_size) for model in job.models} == {(2, (32, 32))}
    assert JobSpec.of_job(job).to_job(id="j", placement=HERE) == job


REFUSED = {
    "a file for two models": (
        {"weights": "/w.pth"},
        "weights is '/w.pth' for 2 models; allowed for all of them: pretrained, scratch",
    ),
    "too many weights": (
        {"weights": ["scratch"] * 3},
        "weights has 3 entries for 2 models; allowed: one for all, or one for each",
    ),
    "no model": ({"model": []}, "model is empty; at least one is needed"),
    "a number in the list": ({"model": ["vit_tiny_patch16_224", 3]}, r"model\[1\] is 3; allowed: text"),
    "too many models": ({"model": ["a"] * 9}, "model is too long; allowed: at most 8 entries"),
    "a latency": ({"latency": "5ms"}, "latency is '5ms@1' with 2 models; allowed: a latency with one model"),
    "parameters alone": ({"flops": [], "params": "5M"}, "flops is needed with several models"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_go_with_several_models_is_refused(case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(SpecError, match=message):
        read_mapping(TWO | changes)


def test_two_weights_for_one_model_are_refused() -> None:
    with pytest.raises(SpecError, match="weights has 2 entries for one model"):
        read_mapping(ONE | {"weights": ["scratch", "pretrained"]})


TEACHERS = {
    "another timm name": ("vit_base_patch16_224", ModelSpec(name="vit_base_patch16_224")),
    "a folder": ("./teachers/vit", ModelSpec(name="./teachers/vit")),
    "a folder at a URI": ("s3://b/teachers/vit", ModelSpec(name="s3://b/teachers/vit")),
    "one of the models": ("deit_tiny_patch16_224", ModelSpec(name="deit_tiny_patch16_224", weights="scratch")),
    "weights at a URI": ("s3://b/w.pth", ModelSpec(name="vit_tiny_patch16_224", weights="s3://b/w.pth")),
    "weights of the first model": ("/w/best.pth", ModelSpec(name="vit_tiny_patch16_224", weights="/w/best.pth")),
}


@pytest.mark.parametrize("case", TEACHERS)
def test_a_teacher_is_a_model_or_weights_of_the_first_one(case: str) -> None:
    text, expected = TEACHERS[case]
    job = job_of(TWO | {"weights": "scratch", "teacher": text})
    assert job.teacher == expected
    assert JobSpec.of_job(job).teacher == text


def test_a_resumed_search_keeps_its_models_and_their_weights() -> None:
    job = job_of(TWO)
    same = CliInput(flags={"model": list(TWO["model"])}, environment={})
    assert resumed_job(job, same, None, Path("/o")) == job
    for flags, message in (
        ({"model": ["vit_tiny_patch16_224"]}, "--model is 'vit"),
        ({"weights": ["scratch"]}, "--weights is 'scratch'"),
    ):
        with pytest.raises(RequestError, match=f"^{message}.* a resumed search cannot change it"):
            resumed_job(job, CliInput(flags=flags, environment={}), None, Path("/o"))


def test_slim_takes_one_model() -> None:
    program, seen = typer.Typer(), []
    program.command()(slim)
    command = typer.main.get_command(program)
    for name in ("model", "weights"):
        (found,) = [parameter for parameter in command.params if parameter.name == name]
        seen.append(found.multiple)  # type: ignore[attr-defined]
    assert seen == [False, False]


@pytest.mark.parametrize("field", ["data", "probe", "model", "weights", "teacher", "token_labels"])
def test_credentials_in_a_uri_are_refused_and_not_repeated(field: str) -> None:
    features = {"objective": "features"} if field == "probe" else {}
    with pytest.raises(SpecError, match=f"{field} is no URI that is allowed: a s3:// URI has no plain name") as found:
        read_mapping(ONE | features | {field: "s3://key:canary@bucket/a.pth"})
    assert "canary" not in str(found.value)


def test_models_at_uris_are_starts_of_their_folders_names() -> None:
    models = ["s3://b/vit", "gs://c/deeper/deit", "hf://timm/deit"]
    job = job_of({"data": "digits", "flops": "50%", "model": models})
    assert {label: spec.name for label, spec in job.starts.items()} == dict(zip(("vit", "deit", "deit@2"), models, strict=True))
    assert JobSpec.of_job(job).model == tuple(models)
