"""`autoslim init` and `autoslim config show`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from autoslim.cli.job_file import commented_file
from autoslim.config import JobSpec, parse_yaml, settings_of


def test_the_file_is_a_job_and_all_that_is_commented_out_is_the_default():
    text = commented_file()
    spec = parse_yaml(text, source="job.yaml")
    assert spec.model_fields_set == {s.name for s in settings_of(JobSpec).values() if s.rules.example is not None}
    assert parse_yaml(re.sub(r"^# (\w+: .*)$", _uncommented, text, flags=re.MULTILINE), source="job.yaml") == spec


def _uncommented(line: re.Match[str]) -> str:
    return line[1] if line[1].partition(":")[0] in JobSpec.model_fields else line[0]


def test_every_field_is_explained():
    text = commented_file()
    for name, field in JobSpec.model_fields.items():
        if name != "schema_version":
            assert re.search(rf"^(# )?{name}: ", text, flags=re.MULTILINE), name
            assert (field.description or "?").split()[0] in text


def test_an_editor_finds_the_schema_wherever_the_file_is_taken_with_it(autoslim, tmp_path: Path):
    (tmp_path / "jobs").mkdir()
    assert autoslim("init", "jobs/flowers.yaml")[0] == 0
    (place,) = re.findall(r"\$schema=(\S+)", (tmp_path / "jobs" / "flowers.yaml").read_text())
    schema = tmp_path / "jobs" / place
    assert json.loads(schema.read_text())["properties"].keys() == JobSpec.model_fields.keys()
    assert str(tmp_path) not in (tmp_path / "jobs" / "flowers.yaml").read_text()


def test_a_file_that_is_there_is_not_written_over(autoslim, tmp_path: Path):
    assert autoslim("init")[0] == 0
    before = (tmp_path / "job.yaml").read_text()
    (tmp_path / "job.yaml").write_text("mine")
    code, _, err = autoslim("init")
    assert (code, "job.yaml exists; name another file, or give --force" in err) == (2, True)
    assert autoslim("init", "--force")[0] == 0
    assert (tmp_path / "job.yaml").read_text() == before
    assert yaml.safe_load(autoslim("init", "-")[1]) == yaml.safe_load(before)


@pytest.fixture
def shown(autoslim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AUTOSLIM_CONFIG", str(tmp_path / "client.toml"))

    def command(*arguments: str) -> dict[str, tuple[object, str]]:
        code, out, err = autoslim("config", "show", *arguments, "--json")
        assert code == 0, err
        return {name: (row["value"], row["from"]) for name, row in json.loads(out).items()}

    return command


def test_every_value_says_where_it_comes_from(shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "job.yaml").write_text("model: m\ndata: digits\nflops: 50%\ntrials: 7\n")
    (tmp_path / "client.toml").write_text('key = "hush"\n')
    (tmp_path / "client.toml").chmod(0o600)
    monkeypatch.setenv("AUTOSLIM_EPOCHS", "2")
    monkeypatch.setenv("AUTOSLIM_STORAGE", "postgresql://me@db/autoslim")
    values = shown("job.yaml", "--seed", "5", "--concurrency", "2")
    assert values == {
        "model": ("m", "job.yaml"),
        "data": ("digits", "job.yaml"),
        "flops": (["50%"], "job.yaml"),
        "trials": (7, "job.yaml"),
        "epochs": (2.0, "environment"),
        "seed": (5, "flag"),
        "concurrency": (2, "flag"),
        "storage": ("postgresql://me@db/autoslim", "environment"),
        "key": ("set, not shown", str(tmp_path / "client.toml")),
    }
    resolved = shown("job.yaml", "--resolved")
    assert resolved["batch_size"] == (64, "default")
    assert resolved["url"] == ("http://127.0.0.1:8400", "default")
    assert JobSpec.model_fields.keys() <= resolved.keys()


def test_what_is_needed_is_shown_to_be(shown):
    assert shown()["model"] == (None, "needed")


def test_it_checks_what_it_shows(autoslim, tmp_path: Path):
    (tmp_path / "job.yaml").write_text("model: m\ndata: digits\nflops: 50%\ntrials: 0\n")
    code, _, err = autoslim("config", "show", "job.yaml")
    assert (code, "job.yaml, line 4: trials is 0" in err) == (2, True)


def test_a_command_that_there_is_not_is_answered_with_the_nearest(autoslim):
    code, _, err = autoslim("serch")
    assert (code, "Did you mean 'search'" in err) == (2, True)
