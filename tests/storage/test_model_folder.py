"""A model's folder at a URI, as commands read it and write to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoslim.errors import StorageError
from autoslim.storage import model_folder as module
from autoslim.storage.model_folder import model_folder


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "store" / "50%").mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "store" / "50%" / name).write_text(f"{name} as it was")
    return tmp_path / "store" / "50%"


def test_a_path_is_taken_as_it_is(model: Path) -> None:
    with model_folder(str(model), writes=True) as folder:
        assert folder == model


def test_the_folder_of_a_uri_has_its_name_and_its_files(model: Path) -> None:
    with model_folder(model.as_uri()) as folder:
        assert folder.name == "50%"
        assert (folder / "model.safetensors").read_text() == "model.safetensors as it was"


def test_what_a_command_writes_goes_back_the_configuration_last(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order, upload = [], module.upload_file
    monkeypatch.setattr(module, "upload_file", lambda path, uri: (upload(path, uri), order.append(path.name)))
    with model_folder(model.as_uri(), writes=True) as folder:
        (folder / "config.json").write_text("with a form")
        (folder / "model.onnx").write_text("new")
    assert order == ["model.onnx", "config.json"]
    assert {path.name: path.read_text() for path in model.iterdir()} == {
        "config.json": "with a form",
        "model.onnx": "new",
        "model.safetensors": "model.safetensors as it was",
    }
    # The cache's copy is that of the former content.
    with model_folder(model.as_uri()) as again:
        assert (again / "config.json").read_text() == "with a form"


def test_nothing_is_written_to_the_hub_and_that_is_said_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "stat", lambda uri: pytest.fail("it is read"))
    message = (
        r"^the files would be written to hf://owner/vit, where each is a commit; allowed: a folder .*, s3://.* `hf download`"
    )
    with pytest.raises(StorageError, match=message), model_folder("hf://owner/vit", writes=True):
        pass


def test_nothing_goes_back_after_an_error(model: Path) -> None:
    with pytest.raises(RuntimeError), model_folder(model.as_uri(), writes=True) as folder:
        (folder / "config.json").write_text("half")
        raise RuntimeError
    assert (model / "config.json").read_text() == "config.json as it was"


def test_of_a_search_its_models_are_named_and_nothing_is_fetched(model: Path, tmp_path: Path) -> None:
    model.rename(model.parent / "run")
    (model.parent / "run" / "models" / "50%").mkdir(parents=True)
    (model.parent / "run" / "config.json").rename(model.parent / "run" / "models" / "50%" / "config.json")
    uri = (model.parent / "run").as_uri()
    with (
        pytest.raises(StorageError, match=f"{uri} holds no model: it has no config.json; allowed: {uri}/models/50%"),
        model_folder(uri),
    ):
        pass
    assert not (tmp_path / "cache").exists()
