"""`autoslim reproduce`: the same model again, to the bit, and what is told where a fact, the data or the dense model is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
from helpers.searched_folder import photos
from helpers.small_search import make_search
from helpers.tiny import config_of, make_dense, make_spec, slim

from autoslim.core.constraints import CostLimits
from autoslim.core.job import DatasetSpec, ModelSpec
from autoslim.core.made_from import MadeFrom
from autoslim.core.recipe import TrainingSettings
from autoslim.export.artifact import SlimConfig, load_config, save, write_config

KEPT = Path(__file__).parents[1] / "artifacts" / "format-1" / "merge"
TINY = ["--model", "deit_tiny_patch16_224", "--from-scratch", "--image-size", "16"]
TINY += ["--model-args", "patch_size=4,embed_dim=32,depth=3,num_heads=2"]
SHORT = ["--data", "digits", "--train-limit", "200", "--epochs", "1", "--base-epochs", "1", "--speed", "none"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished model whose configuration says what it was made from, though nothing of it was."""
    dense = make_dense()
    finished = slim("merge", dense)
    config = config_of("merge", dense, finished)
    made_from = MadeFrom(
        recipe=config.recipe,
        budget_label="60%",
        model=make_spec(),
        dataset=DatasetSpec(source="digits", train_limit=220),
        base=TrainingSettings(epochs=1.0),
        seed=0,
        threads=1,
        digests={"data": "0" * 16, "dense": "0" * 64},
    )
    save(tmp_path / "model", finished.model, config.replace(made_from=made_from))
    return tmp_path / "model"


def change(folder: Path, **changes) -> None:
    config = load_config(folder)
    write_config(folder, config.replace(made_from=config.made_from.replace(**changes)))


def refused(autoslim, *arguments: str) -> str:
    code, out, err = autoslim("reproduce", *arguments)
    assert (code, out) == (2, ""), err
    return err


def test_a_folder_of_an_earlier_version_names_the_fact_that_it_does_not_have(autoslim):
    err = refused(autoslim, str(KEPT), "--output", "again")
    assert "config.json has no made_from, the dense model, data and training that the model was made from" in err


def test_what_a_model_was_made_from_is_read_back_and_left_out_where_it_is_unknown(folder: Path):
    config = load_config(folder)
    assert SlimConfig.from_json(config.to_json()) == config
    assert "made_from" not in json.loads(config.replace(made_from=None).to_json())


def test_data_that_are_gone_are_asked_for(autoslim, folder: Path):
    change(folder, dataset=DatasetSpec(source="/gone/flowers"))
    assert "give them with --data" in refused(autoslim, "model", "--output", "again")
    err = refused(autoslim, "model", "--output", "other", "--data", "/gone/too")
    assert "'/gone/too' does not exist" in err
    assert "give them with" not in err


def test_other_data_are_refused(autoslim, folder: Path):
    err = refused(autoslim, "model", "--output", "again")
    assert "--data digits: its images, labels or splits are not those that the model was made from" in err


def test_images_that_cannot_be_read_are_not_left_out(autoslim, folder: Path, tmp_path: Path):
    source = photos(tmp_path / "photos")
    for image in (source / "class 0").iterdir():
        image.write_bytes(b"")
    change(folder, dataset=DatasetSpec(source=str(source)))
    err = refused(autoslim, "model", "--output", "again")
    assert "a model is made again from all of its images: repair them" in err
    assert "next:" not in err


def test_a_dense_model_that_is_gone_is_asked_for(autoslim, folder: Path, tmp_path: Path):
    from autoslim.data import prepare_dataset

    digest = prepare_dataset(load_config(folder).made_from.dataset, tmp_path / "cache", seed=0).digest
    change(folder, digests={"data": digest, "dense": "0" * 64}, model=ModelSpec(name="/gone/model"))
    assert "give the dense model's name or folder with --model" in refused(autoslim, "model", "--output", "again")


def test_a_latency_is_not_made_again(autoslim, folder: Path):
    write_config(folder, load_config(folder).replace(limits=CostLimits(latency_ms=5.0)))
    assert "--latency" in refused(autoslim, "model", "--output", "again")


def test_weights_that_are_gone_are_told(autoslim, folder: Path):
    (folder / "model.safetensors").unlink()
    assert "has no model.safetensors" in refused(autoslim, "model", "--output", "again")


def test_an_output_that_holds_something_is_left_as_it_is(autoslim, folder: Path, tmp_path: Path):
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "mine.txt").write_text("mine")
    assert "holds mine.txt; give a new folder" in refused(autoslim, "model", "--output", "again")
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["mine.txt"]
    # One that was started for other data is not continued.
    refused(autoslim, "model", "--output", "started")
    err = refused(autoslim, "model", "--output", "started", "--data", "elsewhere")
    assert "was started for another model, --data or --model" in err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_slimmed_model_is_made_again_to_the_bit(autoslim, tmp_path: Path):
    code, _, err = autoslim("slim", "--method", "merge", *TINY, *SHORT, "--flops", "60%", "--output", "one")
    assert code == 0, err
    code, out, err = autoslim("reproduce", "one", "--output", "again", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["same"], found["dense_same"], found["largest_difference"]) == (True, True, 0.0)
    assert found["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert (found["flops"], found["versions"]) == (found["original_flops"], {})
    assert {"README.md", "model.onnx", "config.json"} <= {path.name for path in (tmp_path / "again").iterdir()}
    assert not (tmp_path / "again" / "work").exists()
    # From the adapted dense model, which is where slim has left it.
    code, out, err = autoslim("reproduce", "one", "--output", "third", "--model", "one/dense")
    assert code == 0, err
    assert "the same to the bit" in out
    assert "dense model: epoch" not in err
    # Other weights in the original stand for a model that cannot be made again to the bit.
    state = safetensors.torch.load_file(tmp_path / "one" / "model.safetensors")
    name = next(name for name, value in state.items() if value.is_floating_point())
    safetensors.torch.save_file({**state, name: state[name] + 0.25}, tmp_path / "one" / "model.safetensors")
    code, out, err = autoslim("reproduce", "one", "--output", "fourth")
    assert code == 5
    assert "not the same: the largest difference of a weight is 0.25" in out
    assert "paired at 95 %" in out
    assert "is not the same as" in err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_model_of_a_search_that_was_tuned_for_longer_is_made_again_to_the_bit(autoslim, tmp_path: Path):
    make_search(tmp_path / "run")
    code, _, err = autoslim("pick", "run", "--flops", "60%", "--tune", "2")
    assert code == 0, err
    # Nothing of the search but the model's folder is needed.
    shutil.copytree(tmp_path / "run" / "models" / "60%", tmp_path / "model")
    shutil.rmtree(tmp_path / "run")
    code, out, err = autoslim("reproduce", "model", "--output", "again", "--json")
    assert code == 0, err
    assert json.loads(out)["same"]
