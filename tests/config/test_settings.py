"""One field of the spec is all that is said of a setting: everything else is made from it. Every field is walked over."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from autoslim.cli.app import app
from autoslim.cli.flags import job_flags, with_flags
from autoslim.cli.job_file import commented_file
from autoslim.cli.parsing import CliInput, fields_of
from autoslim.cli.resume import resumed_job
from autoslim.config import Commands, JobSpec, Placement, parse_yaml, read_json, read_mapping, settings_of
from autoslim.config.job_field import default_at
from autoslim.config.reference import as_markdown, reference
from autoslim.config.schema import job_schema
from autoslim.errors import RequestError
from autoslim.service.dry_run.dry_runner import deciding_fields
from autoslim.service.openapi import FILE as OPENAPI

LEAST: dict[str, Any] = {"model": "deit_tiny_patch16_224", "data": "digits", "flops": ["50%"]}
OTHER: dict[str, Any] = {
    "schema_version": 1,
    "name": "tulips",
    "model": "vit_small_patch16_224",
    "weights": "scratch",
    "model_args": {"depth": 6},
    "image_size": 96,
    "teacher": "vit_base_patch16_224",
    "data": "./flowers",
    "objective": "features",
    "probe": "./labelled",
    "data_config": "large",
    "image_column": "img",
    "label_column": "fine_label",
    "token_labels": "./label_top5",
    "train_limit": 100,
    "decoded_limit": "12G",
    "validation_share": 0.2,
    "unreadable_share": 0.5,
    "drop_duplicates": True,
    "params": "1300000",
    "latency": "5ms@2",
    "latency_mode": "compiled",
    "max_drop": 1.5,
    "min_accuracy": "80%",
    "flops": ("2.3G", "70%"),
    "space": "smoke",
    "trials": 7,
    "time": "5400s",
    "max_epochs": 40.5,
    "plateau": 9,
    "final_share": 0.5,
    "final_seeds": 3,
    "price_per_hour": 2.5,
    "max_hours": 1.5,
    "max_cost": 20.5,
    "stall_minutes": 7.5,
    "reuse": ("all", "digits-1"),
    "epochs": 5.5,
    "batch_size": 8,
    "lr": 0.001,
    "augmentation": "strong",
    "flip": True,
    "precision": "fp16",
    "grad_accum_steps": 4,
    "grad_checkpointing": True,
    "compile": True,
    "adapt": True,
    "base_epochs": 2.5,
    "base_lr": 0.002,
    "sampler": "nsga2",
    "prior": "none",
    "scheduler": "median",
    "seed": 3,
    "class_query": True,
    "bound": "mean",
    "speed": ("eager", "compiled"),
    "forms": ("onnx", "onnx-int8"),
    "max_form_drop": 1.5,
    "priority": 9,
    "webhook": "https://hooks.example.org/autoslim?of=tulips",
}
"""Of every setting a value that is not its default, as a spec holds it."""
TYPED: dict[str, list[str]] = {
    "model_args": ["--model-args", "depth=6"],
    "flip": ["--flip"],
    "grad_checkpointing": ["--grad-checkpointing"],
    "compile": ["--compile"],
    "adapt": ["--adapt"],
    "class_query": ["--class-query"],
    "drop_duplicates": ["--drop-duplicates"],
    "speed": ["--speed", "eager,compiled"],
    "forms": ["--forms", "onnx,onnx-int8"],
    "flops": ["--flops", "2.3G", "--flops", "70%"],
    "reuse": ["--reuse", "all", "--reuse", "digits-1"],
}
"""The flags of the settings whose value is typed in another form."""
IN_THE_ENVIRONMENT = {
    "model_args": "depth=6",
    "speed": "eager,compiled",
    "forms": "onnx,onnx-int8",
    "flops": "2.3G 70%",
    "reuse": "all digits-1",
}
NEEDED: dict[str, dict[str, Any]] = {
    "latency_mode": {"latency": "5ms"},
    "probe": {"objective": "features"},
    "max_cost": {"price_per_hour": 2.0},
}
"""Without these a setting means nothing."""
HERE = Placement(output="/o")
SETTINGS = settings_of(JobSpec)
each_setting = pytest.mark.parametrize("name", SETTINGS)
each_flag = pytest.mark.parametrize("name", [name for name, one in SETTINGS.items() if one.rules.commands is not Commands.NONE])


def least_for(name: str) -> dict[str, Any]:
    """The least spec in which a setting means something."""
    return LEAST | NEEDED.get(name, {})


def spec_with(name: str) -> JobSpec:
    return read_mapping(least_for(name) | {name: OTHER[name]})


def arguments_of(name: str) -> list[str]:
    return TYPED.get(name, ["--" + name.replace("_", "-"), str(OTHER[name])])


def read(*arguments: str) -> CliInput:
    """What a command with the flags of all settings reads from its command line."""
    seen: list[CliInput] = []

    @with_flags(job_flags(Commands.SUBMIT))
    def command(context: typer.Context) -> None:
        seen.append(CliInput.of(context))

    program = typer.Typer()
    program.command()(command)
    program(args=list(arguments), standalone_mode=False)
    return seen[0]


@functools.cache
def flags_of(command: str) -> set[str]:
    (found,) = [
        found
        for name, found in typer.main.get_command(app).commands.items()
        if name == command  # type: ignore[attr-defined]
    ]
    return {flag for parameter in found.params for flag in (*parameter.opts, *parameter.secondary_opts)}


def test_every_setting_has_another_value_to_test_with() -> None:
    assert OTHER.keys() == SETTINGS.keys()
    assert [name for name, one in SETTINGS.items() if OTHER[name] == one.default] == ["schema_version"]


@each_flag
def test_every_setting_has_a_flag(name: str) -> None:
    found = read(*arguments_of(name))
    assert (set(found.flags), found.environment) == ({name}, {})
    assert read_mapping(least_for(name) | fields_of(found, JobSpec)) == spec_with(name)


@each_flag
def test_every_setting_has_a_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"AUTOSLIM_{name.upper()}", IN_THE_ENVIRONMENT.get(name, str(OTHER[name])))
    found = read()
    assert (set(found.environment), found.flags) == ({name}, {})
    assert read_mapping(least_for(name) | fields_of(found, JobSpec)) == spec_with(name)


@each_setting
def test_every_setting_is_read_from_yaml_and_from_json(name: str) -> None:
    plain = list(OTHER[name]) if isinstance(OTHER[name], tuple) else OTHER[name]
    values = least_for(name) | {name: plain}
    assert parse_yaml(yaml.safe_dump(values), source="job.yaml") == spec_with(name)
    assert read_json(json.dumps(values)) == spec_with(name)
    assert read_json(spec_with(name).model_dump_json()) == spec_with(name)


@each_setting
def test_every_setting_is_in_the_schema_of_the_file_and_of_http(name: str) -> None:
    for schema in (job_schema(), json.loads(OPENAPI.read_text())["components"]["schemas"]["JobSpec"]):
        assert schema["properties"][name]["description"] == SETTINGS[name].help


@each_setting
def test_every_setting_arrives_in_the_job_and_is_read_back_from_it(name: str) -> None:
    job = spec_with(name).to_job(id="j", placement=HERE)
    again = JobSpec.of_job(job)
    assert again.to_job(id="j", placement=HERE) == job
    if SETTINGS[name].rules.job:
        assert getattr(again, name) == getattr(spec_with(name), name)
        assert job != read_mapping(least_for(name)).to_job(id="j", placement=HERE)


def test_only_what_the_queue_knows_is_not_in_the_job() -> None:
    assert [name for name, one in SETTINGS.items() if not one.rules.job] == ["schema_version", "priority"]


@each_flag
def test_a_resumed_search_takes_what_may_change_and_refuses_the_rest(name: str) -> None:
    job = read_mapping(least_for(name)).to_job(id="j", placement=HERE)
    if SETTINGS[name].rules.resumable:
        again = resumed_job(job, read(*arguments_of(name)), None, Path("/o"))
        assert again == spec_with(name).to_job(id="j", placement=HERE).replace(trials=again.trials)
    else:
        flag = SETTINGS[name].flag.partition("/")[0]
        with pytest.raises(
            RequestError, match=rf"^{flag} is .*but this search started with .*a resumed search cannot change it$"
        ):
            resumed_job(job, read(*arguments_of(name)), None, Path("/o"))


def test_the_refusal_of_another_store_does_not_show_the_password_of_a_job_of_an_older_version() -> None:
    job = read_mapping(LEAST).to_job(id="j", placement=HERE).replace(storage="postgresql://u:geheim@h/d")
    with pytest.raises(RequestError, match=r"^--storage is 'sqlite:///s.db', but .* 'postgresql://u:\*\*\*@h/d'") as caught:
        resumed_job(job, CliInput(flags={"storage": "sqlite:///s.db"}, environment={}), None, Path("/o"))
    assert "geheim" not in str(caught.value)


@each_setting
def test_the_key_of_a_plan_has_what_decides_it_and_nothing_else(name: str) -> None:
    key = deciding_fields(spec_with(name))
    assert (name in key) is SETTINGS[name].rules.decides_plan
    assert (key != deciding_fields(read_mapping(least_for(name)))) is SETTINGS[name].rules.decides_plan
    # The dry-run process reads a spec again from these fields alone.
    assert deciding_fields(read_mapping(key)) == key


@each_setting
def test_every_setting_is_in_the_job_file_and_on_the_reference_page(name: str) -> None:
    (row,) = [row for row in reference() if row.name == name]
    described = SETTINGS[name]
    assert (row.help, row.resumable, row.decides_plan) == (
        described.help,
        described.rules.resumable,
        described.rules.decides_plan,
    )
    assert f"\n| `{name}` | " in as_markdown([row])
    if described.rules.commands is not Commands.NONE:
        assert (row.flag or "").split(", ")[0] == described.flag
        assert row.variable == f"AUTOSLIM_{name.upper()}"
        assert re.search(rf"^(# )?{name}: ", commented_file(), re.MULTILINE)


@each_setting
def test_the_help_of_a_setting_is_made_of_sentences(name: str) -> None:
    assert re.fullmatch(r"([A-Z`]|timm).*\.", SETTINGS[name].help)


@pytest.mark.parametrize(
    ("command", "commands"),
    [("slim", Commands.SLIM), ("search", Commands.SEARCH), ("plan", Commands.SEARCH), ("submit", Commands.SUBMIT)],
)
def test_a_command_has_the_flags_of_its_settings(command: str, commands: Commands) -> None:
    order = list(Commands)
    for described in SETTINGS.values():
        flags = {*described.flag.split("/"), *(shortcut.flag for shortcut in described.rules.shortcuts)}
        wanted = described.rules.commands is not Commands.NONE and order.index(described.rules.commands) <= order.index(commands)
        assert (flags <= flags_of(command)) is wanted, described.name


@pytest.mark.parametrize("name", Placement.model_fields)
def test_every_field_of_the_placement_has_a_flag_a_row_and_its_place_in_the_job(name: str) -> None:
    described = settings_of(Placement)[name]
    assert described.flag in flags_of("search")
    assert [row.help for row in reference() if row.name == name] == [described.help]
    assert name not in SETTINGS
    assert [field.path for field in described.rules.job] == [name]
    assert described.needed or default_at(name) is described.default


def test_a_flag_that_stands_for_a_value_excludes_the_setting_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fields_of(read("--from-scratch"), JobSpec) == {"weights": "scratch"}
    with pytest.raises(RequestError, match=r"^--weights and --from-scratch exclude each other$"):
        fields_of(read("--from-scratch", "--weights", "w"), JobSpec)
    monkeypatch.setenv("AUTOSLIM_FROM_SCRATCH", "1")
    assert fields_of(read(), JobSpec) == {"weights": "scratch"}
