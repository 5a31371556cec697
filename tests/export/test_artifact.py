"""A slimmed model's folder: what is refused when it is opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from helpers.keep_folder import keep_folder
from helpers.tiny import CLASSES, config_of, images, logits, slimmed

from autoslim.errors import AutoslimError, WeightsError
from autoslim.export.artifact import FORMAT, load, load_config, save
from autoslim.methods import METHODS
from autoslim.models import write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    dense, finished = slimmed("vit_slim", "deit")
    save(tmp_path / "m", finished.model, config_of("vit_slim", dense, finished))
    return tmp_path / "m"


def change(folder: Path, *path: Any, value: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    place = config
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))


def test_it_loads_in_eval_mode_with_its_logits(folder: Path):
    model = load(folder)
    assert not model.training
    torch.testing.assert_close(logits(model, images()), logits(slimmed("vit_slim", "deit")[1].model, images()))
    assert load_config(folder).classes == CLASSES
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, missing: str):
    (folder / missing).unlink()
    with pytest.raises(WeightsError, match=missing if missing == "config.json" else "weights in"):
        load(folder)


def test_a_truncated_weights_file_is_refused(folder: Path):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cannot be loaded"):
        load(folder)


def test_weights_of_another_model_are_refused(folder: Path):
    other = slimmed("life_regression", "deit")[1].model
    safetensors.torch.save_file(other.state_dict(), folder / "model.safetensors")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        load(folder)


def test_a_pickle_in_the_place_of_the_weights_is_not_run(folder: Path, tmp_path: Path):
    class Canary:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(tmp_path / "canary"), "w"))

    torch.save({"head.weight": Canary()}, folder / "model.safetensors")
    with pytest.raises(WeightsError):
        load(folder)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), 99, "format 99"),
        (("recipe", "steps", 0, "method"), "magic", "names the method 'magic'; known: "),
        (("architecture", "name"), "hf-hub:someone/something", "someone/something"),
        (("architecture", "name"), "local-dir:/somewhere", "/somewhere"),
        (("architecture", "name"), "no_such_model", "no_such_model"),
        (("architecture", "args"), {"no_such_argument": 1}, "no_such_argument"),
        (("plan", "blocks"), [], "0 blocks"),
        (("plan", "blocks", 0, "hidden"), 10**9, "exceed"),
        (("flavour",), 1, "no field 'flavour'"),
    ],
)
def test_a_configuration_that_is_wrong_is_refused_before_anything_is_built(folder: Path, path: tuple, value: Any, message: str):
    change(folder, *path, value=value)
    with pytest.raises(AutoslimError, match=message):
        load(folder)


def test_a_dense_folder_is_no_slimmed_model(tmp_path: Path):
    dense, _ = slimmed("vit_slim", "deit")
    write_folder(tmp_path, dense.module, dense.architecture, preprocessing=dense.preprocessing, classes=CLASSES)
    with pytest.raises(WeightsError, match="not a slimmed model's configuration"):
        load(tmp_path)


def test_a_configuration_without_end_is_not_read(folder: Path):
    with (folder / "config.json").open("w") as file:
        file.truncate(17 * 2**20)
    with pytest.raises(WeightsError, match="was not read"):
        load(folder)


# Folders that were written when their format was the newest. A change of the format adds a folder here, and none is ever written again.
ARTIFACTS = Path(__file__).parents[1] / "artifacts"


@pytest.mark.parametrize("kept", sorted(path.relative_to(ARTIFACTS).as_posix() for path in ARTIFACTS.glob("format-*/*")))
def test_a_folder_of_every_format_there_was_loads_with_the_logits_it_had(kept: str):
    folder = ARTIFACTS / kept
    expected = torch.tensor(json.loads((folder / "logits.json").read_text()))
    torch.testing.assert_close(logits(load(folder), images(2, size=16)), expected, rtol=1e-4, atol=1e-4)
    assert f"format-{load_config(folder).format}" == folder.parent.name


def test_a_new_methods_folder_is_kept_and_never_written_again(tmp_path: Path):
    folder = keep_folder("merge", tmp_path)
    expected = torch.tensor(json.loads((folder / "logits.json").read_text()))
    torch.testing.assert_close(logits(load(folder), images(2, size=16)), expected)
    with pytest.raises(FileExistsError):
        keep_folder("merge", tmp_path)


def test_the_newest_format_has_folders_of_every_method():
    assert {path.name for path in (ARTIFACTS / f"format-{FORMAT}").iterdir()} == set(METHODS)
