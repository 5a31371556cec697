"""Weights come from files that hold tensors, fit the model or say why not, and never run code."""

from __future__ import annotations

import pickle
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import safetensors.torch
import timm
import torch
from helpers.tiny import CLASSES, SIZES, images, logits, make_dense, make_spec

from autoslim.core.job import ModelSpec
from autoslim.errors import RequestError, WeightsError
from autoslim.models import create_dense, dense, read_state_dict, write_folder

State = dict[str, torch.Tensor]


@pytest.fixture
def state() -> State:
    return {name: value.clone() for name, value in make_dense().module.state_dict().items()}


def spec(weights: Path, **changes: Any) -> ModelSpec:
    return make_spec("deit").replace(weights=str(weights), **changes)


def write(path: Path, content: Any) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(content, path)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pt"])
def test_weights_from_a_file_are_the_models(name: str, state: State, tmp_path: Path):
    dense = create_dense(spec(write(tmp_path / name, state)), classes=10)
    assert torch.equal(logits(dense.module, images()), logits(make_dense().module, images()))
    assert (dense.trained, dense.head_fits, dense.resampled) == (True, True, False)
    # A file of weights names no classes.
    assert dense.is_unproven
    assert not dense.is_ready_for(CLASSES)


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_weights_may_be_nested_in_a_checkpoint(key: str, state: State, tmp_path: Path):
    path = write(tmp_path / "w.pth", {key: state, "epoch": 7})
    assert torch.equal(create_dense(spec(path), classes=10).module.state_dict()["head.weight"], state["head.weight"])


class Canary:
    """Unpickled without care, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


odd_pickles = pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")


@odd_pickles
@pytest.mark.parametrize("how", ["torch.save", "old torch.save", "pickle"])
def test_a_pickle_that_runs_code_is_refused_and_not_run(how: str, state: State, tmp_path: Path):
    canary, path = tmp_path / "canary", tmp_path / "w.pth"
    content = {**state, "extra": Canary(canary)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch.save")
    with pytest.raises(WeightsError, match="refused, not run"):
        create_dense(spec(path), classes=10)
    assert not canary.exists()


@odd_pickles
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"not weights at all", b"\x80\x04garbage", b"PK\x03\x04broken"])
def test_a_broken_file_is_an_error_that_names_it(name: str, content: bytes, tmp_path: Path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        read_state_dict(tmp_path / name)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_a_truncated_file_is_an_error_that_names_it(name: str, state: State, tmp_path: Path):
    path = write(tmp_path / name, state)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(WeightsError, match=name):
        read_state_dict(path)


@pytest.mark.parametrize("content", [[1, 2], {"model": 3}, {"head.weight": "text"}, {"a": {"b": 1}}])
def test_a_file_without_tensors_by_name_is_refused(content: Any, tmp_path: Path):
    with pytest.raises(WeightsError, match="not a state dict"):
        read_state_dict(write(tmp_path / "w.pth", content))


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(WeightsError, match=r"nowhere\.pth does not exist"):
        create_dense(spec(tmp_path / "nowhere.pth"), classes=10)


def test_missing_parameters_are_named(state: State, tmp_path: Path):
    del state["blocks.2.attn.qkv.weight"]
    with pytest.raises(WeightsError, match=r"lack blocks\.2\.attn\.qkv\.weight"):
        create_dense(spec(write(tmp_path / "w.pth", state)), classes=10)


def test_parameters_left_over_are_named(state: State, tmp_path: Path):
    state["blocks.9.norm1.weight"] = torch.ones(48)
    with pytest.raises(WeightsError, match=r"have besides blocks\.9\.norm1\.weight"):
        create_dense(spec(write(tmp_path / "w.pth", state)), classes=10)


def test_a_wrong_shape_is_named(state: State, tmp_path: Path):
    state["blocks.1.mlp.fc1.weight"] = torch.ones(96, 48)
    with pytest.raises(WeightsError, match=r"blocks\.1\.mlp\.fc1\.weight \(96, 48\) for \(192, 48\)"):
        create_dense(spec(write(tmp_path / "w.pth", state)), classes=10)


@pytest.mark.parametrize("width", [24, 64])
def test_weights_of_another_width_are_refused(width: int, tmp_path: Path):
    other = make_dense("deit", embed_dim=width, num_heads=4).module.state_dict()
    with pytest.raises(WeightsError, match="do not fit the model"):
        create_dense(spec(write(tmp_path / "w.pth", dict(other))), classes=10)


@pytest.mark.parametrize("model", ["deit", "distilled"])
def test_a_head_of_another_size_is_left_as_it_was_made(model: str, tmp_path: Path):
    state = dict(make_dense(model).module.state_dict())
    path = write(tmp_path / "w.safetensors", state)
    dense = create_dense(make_spec(model).replace(weights=str(path)), classes=20)
    loaded = dense.module.state_dict()
    assert not dense.head_fits
    assert not dense.is_ready_for(CLASSES)
    assert loaded["head.weight"].shape == (20, 48)
    assert all(torch.equal(loaded[name], value) for name, value in state.items() if not name.startswith("head"))


def test_weights_without_a_head_are_taken(state: State, tmp_path: Path):
    path = write(tmp_path / "w.pth", {name: value for name, value in state.items() if not name.startswith("head.")})
    assert not create_dense(spec(path), classes=10).head_fits


@pytest.mark.parametrize("model", ["deit", "distilled", "registers", "average without class token"])
def test_position_embeddings_are_resampled_to_another_image_size(model: str, tmp_path: Path):
    """64 pixels and 20 classes out of a checkpoint of 32 pixels and 10."""
    small = make_dense(model)
    path = write(tmp_path / "w.safetensors", dict(small.module.state_dict()))
    large = create_dense(make_spec(model).replace(weights=str(path), image_size=(64, 64)), classes=20)
    assert large.resampled
    assert large.shape.patches == 4 * small.shape.patches
    assert logits(large.module, images(2, size=64)).shape == (2, 20)
    prefix = small.shape.prefix_tokens
    was, now = small.module.pos_embed[0], large.module.pos_embed[0]
    assert torch.equal(now[:prefix], was[:prefix])
    grid = now[prefix:].view(8, 8, 48)
    means = grid.view(4, 2, 4, 2, 48).mean((1, 3)).reshape(16, 48)
    agreement = torch.cosine_similarity(means.flatten(), was[prefix:].flatten(), dim=0)
    assert agreement > 0.9
    assert not torch.equal(grid[0, 0], grid[0, 1])


def test_another_patch_size_is_resampled_too(tmp_path: Path, state: State):
    path = write(tmp_path / "w.pth", state)
    finer = create_dense(spec(path, args={**SIZES, "patch_size": 4}), classes=10)
    assert finer.resampled
    assert logits(finer.module, images()).shape == (3, 10)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return monkeypatch


def _refusal() -> str:
    with pytest.raises(WeightsError) as refusal:
        create_dense(ModelSpec(name="deit_tiny_patch16_224"))
    assert "--weights" in str(refusal.value)
    assert "--from-scratch" in str(refusal.value)
    return str(refusal.value)


def test_without_a_network_the_refused_connection_is_reported_and_no_deadline_awaited(no_hub: pytest.MonkeyPatch):
    no_hub.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    no_hub.setattr(dense, "_HUB_DEADLINE", float(threading.TIMEOUT_MAX) / 2)
    assert "refused" in _refusal()


def test_a_hub_that_does_not_answer_is_given_up_at_the_deadline(no_hub: pytest.MonkeyPatch, silent_server: str):
    no_hub.setattr(huggingface_hub.constants, "ENDPOINT", silent_server)
    no_hub.setattr(dense, "_HUB_DEADLINE", 0.2)
    # The connection's own deadline is the same: either may come first.
    assert re.search(r"no answer within 0\.2 s|timed out", _refusal())


def test_the_deadline_leaves_the_answer_within_ten_seconds():
    assert 0 < dense._HUB_DEADLINE < 10


def test_a_model_without_pretrained_weights_says_so():
    with pytest.raises(WeightsError, match="--from-scratch"):
        create_dense(ModelSpec(name="vit_base_patch16_gap_224", args={"depth": 1}))


@pytest.mark.parametrize("model", ["deit", "distilled", "average", "registers"])
def test_a_folder_round_trips_through_our_reader_and_through_timm(model: str, tmp_path: Path):
    dense = make_dense(model)
    write_folder(tmp_path / "m", dense.module, dense.architecture, preprocessing=dense.preprocessing, classes=CLASSES)
    expected = logits(dense.module, images())

    again = create_dense(ModelSpec(name=str(tmp_path / "m")))
    assert torch.equal(logits(again.module, images()), expected)
    assert (again.shape, again.preprocessing, again.labels) == (dense.shape, dense.preprocessing, CLASSES)
    assert (again.trained, again.head_fits, again.resampled) == (True, True, False)
    assert again.is_ready_for(CLASSES)
    assert not again.is_ready_for(tuple(reversed(CLASSES)))
    assert again.architecture == dense.architecture
    assert again.architecture.build().state_dict().keys() == dense.module.state_dict().keys()

    by_timm = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True).eval()
    assert torch.equal(logits(by_timm, images()), expected)


def test_a_folder_may_be_opened_at_another_size(tmp_path: Path):
    dense = make_dense()
    write_folder(tmp_path / "m", dense.module, dense.architecture, preprocessing=dense.preprocessing, classes=CLASSES)
    larger = create_dense(ModelSpec(name=str(tmp_path / "m"), image_size=(64, 64)), classes=20)
    assert larger.resampled
    assert not larger.head_fits
    assert larger.architecture.args["img_size"] == [64, 64]


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path):
    with pytest.raises(RequestError, match=r"has no config\.json"):
        create_dense(ModelSpec(name=str(tmp_path)))


@pytest.mark.parametrize("config", ["{", "[]", "{}", '{"architecture": "no_such_model"}', '{"architecture": 3}'])
def test_a_folder_with_a_broken_configuration_is_refused(config: str, tmp_path: Path):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(RequestError):
        create_dense(ModelSpec(name=str(tmp_path)))


def test_weights_at_a_uri_are_those_of_the_file(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / "cache"))
    path = write(tmp_path / "w.safetensors", state)
    found = create_dense(make_spec("deit").replace(weights=path.as_uri()), classes=10)
    assert torch.equal(found.module.state_dict()["head.weight"], state["head.weight"])
    assert [file.read_bytes() for file in (tmp_path / "cache").rglob("w.safetensors")] == [path.read_bytes()]


def test_a_folder_at_a_uri_is_the_model_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / "cache"))
    dense = make_dense("deit")
    write_folder(tmp_path / "m", dense.module, dense.architecture, preprocessing=dense.preprocessing, classes=CLASSES)
    (tmp_path / "m" / "optimizer.bin").write_bytes(b"not the model's")
    spec = ModelSpec(name=(tmp_path / "m").as_uri())
    found = create_dense(spec)
    assert torch.equal(logits(found.module, images()), logits(dense.module, images()))
    assert (found.labels, found.architecture) == (CLASSES, dense.architecture)
    assert not list((tmp_path / "cache").rglob("optimizer.bin"))


@pytest.mark.parametrize(
    ("config", "said"),
    [("{", r"file:///\S*/m/config\.json is not valid JSON"), (None, r"file:///\S*/m holds no model: it has no config\.json")],
)
def test_what_is_wrong_with_a_folder_at_a_uri_is_said_of_the_uri(
    config: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "m").mkdir()
    if config is not None:
        (tmp_path / "m" / "config.json").write_text(config)
    with pytest.raises(RequestError, match=said) as found:
        create_dense(ModelSpec(name=(tmp_path / "m").as_uri()))
    assert str(tmp_path / "cache") not in str(found.value)
