"""Files of weights as training scripts, hubs and failed downloads leave them."""

from __future__ import annotations

import argparse
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from helpers.tiny import KINDS, SIZES, images, make_dense
from torch import Tensor, nn

from autoslim.core.job import ModelSpec
from autoslim.errors import WeightsError
from autoslim.models import create_dense
from autoslim.models.weights_file import read_weights

State = dict[str, Tensor]


@pytest.fixture
def model() -> nn.Module:
    return make_dense("deit").module


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


def other(state: State) -> State:
    """Weights that are not to be taken."""
    return {name: torch.zeros_like(value) for name, value in state.items()}


WRAPPED: dict[str, tuple[Any, str]] = {
    "plain": (lambda s: s, ""),
    "state_dict": (lambda s: {"state_dict": s, "epoch": 3}, ""),
    "model": (lambda s: {"model": s}, "model"),
    "DataParallel": (lambda s: prefixed(s, "module."), "without the prefix 'module.'"),
    "torch.compile": (lambda s: prefixed(s, "_orig_mod."), "without the prefix '_orig_mod.'"),
    "both": (lambda s: prefixed(s, "module._orig_mod."), "without the prefix 'module._orig_mod.'"),
    "Lightning": (
        lambda s: {
            "state_dict": {**prefixed(s, "model."), "loss.weight": torch.ones(3)},
            "global_step": 4,
            "hyper_parameters": {"lr": 0.1},
        },
        "without the prefix 'model.', tensors of other parts left out: 1",
    ),
    "averaged alone": (lambda s: {"model_ema": s}, "model_ema"),
    "averaged beside plain": (lambda s: {"state_dict": other(s), "state_dict_ema": s}, "state_dict_ema"),
    "averaged beside model": (lambda s: {"model": other(s), "model_ema": s, "optimizer": {"state": {}}}, "model_ema"),
    "train.py of timm": (
        lambda s: {"epoch": 9, "arch": "deit", "state_dict": s, "args": argparse.Namespace(lr=0.1, opt="adamw", img_size=None)},
        "",
    ),
    "DINO": (
        lambda s: {
            "student": prefixed(other(s), "module.backbone."),
            "teacher": {**prefixed(s, "backbone."), "head.mlp.weight": torch.ones(2)},
        },
        "teacher, without the prefix 'backbone.', tensors of other parts left out: 1",
    ),
}


@pytest.mark.parametrize("how", WRAPPED)
def test_weights_are_found_and_it_is_said_where(how: str, model: nn.Module, tmp_path: Path):
    wrap, part = WRAPPED[how]
    torch.save(wrap(dict(model.state_dict())), tmp_path / "w.pth")
    name, own = KINDS["deit"]
    dense = create_dense(ModelSpec(name=name, weights=str(tmp_path / "w.pth"), args={**SIZES, **own}), classes=10)
    with torch.no_grad():
        assert torch.equal(dense.module(images()), model(images()))
    assert dense.weights_part == part


@pytest.mark.parametrize("name", ["w.pt", "w.bin", "w.ckpt", "w"])
def test_what_a_file_is_its_content_says(name: str, model: nn.Module, tmp_path: Path):
    safetensors.torch.save_file(dict(model.state_dict()), tmp_path / name)
    assert read_weights(tmp_path / name).state.keys() == model.state_dict().keys()


SOMETHING_ELSE = {
    "": "is empty",
    "Repository not found": "is a text file, not weights; it begins with 'Repository not found'",
    "quota exceeded\n": "is a text file, not weights; it begins with 'quota exceeded'",
    "hello": "is a text file",
    "<!DOCTYPE html>\n<html>": "is a web page",
    "\n <html><body>": "is a web page",
    "version https://git-lfs.github.com/spec/v1\noid sha256:ab": "is a Git LFS pointer",
    '{"metadata": {}, "weight_map": {}}': "is a JSON file, not weights; where it is an index of several files, join them into one file",
    "\x93NUMPY": "is no weights file",
}


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", SOMETHING_ELSE)
def test_a_file_of_something_else_is_called_what_it_is(content: str, name: str, tmp_path: Path):
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(WeightsError) as refusal:
        read_weights(tmp_path / name)
    assert f"weights file {tmp_path / name} {SOMETHING_ELSE[content]}" in str(refusal.value)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_file_that_was_cut_off_is_asked_after(name: str, model: nn.Module, tmp_path: Path):
    path = tmp_path / name
    if name.endswith("pt"):
        torch.save(model.state_dict(), path)
    else:
        safetensors.torch.save_file(dict(model.state_dict()), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WeightsError, match=r"cannot be read.*is it whole"):
        read_weights(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_named(value: float, model: nn.Module, tmp_path: Path):
    state = dict(model.state_dict())
    state["blocks.1.mlp.fc1.bias"][3] = value
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"blocks\.1\.mlp\.fc1\.bias has values that are not finite"):
        read_weights(tmp_path / "w.pt")


def test_a_file_that_holds_itself_ends(tmp_path: Path):
    content: dict[str, Any] = {"epoch": 1}
    content["model"] = content
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="not a state dict"):
        read_weights(tmp_path / "w.pt")


def test_the_entries_of_a_file_without_weights_are_named(tmp_path: Path):
    torch.save({"optimizer": {"lr": 0.1}, "epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"not a state dict: .*its entries are optimizer, epoch"):
        read_weights(tmp_path / "w.pt")


def test_the_decoder_of_a_masked_autoencoder_is_left_out(model: nn.Module, tmp_path: Path):
    state = model.state_dict()
    decoder = {
        "decoder_embed.weight": torch.ones(2),
        "decoder_blocks.0.norm1.weight": torch.ones(2),
        "mask_token": torch.ones(1, 1, 2),
    }
    torch.save({"model": state | decoder}, tmp_path / "mae.pth")
    found = read_weights(tmp_path / "mae.pth")
    assert found.state.keys() == state.keys()
    assert found.part == "model, tensors of other parts left out: 3"


def test_an_encoder_is_a_prefix_where_timms_names_are_behind_it(model: nn.Module, tmp_path: Path):
    torch.save(prefixed(model.state_dict(), "encoder."), tmp_path / "encoder.pth")
    assert read_weights(tmp_path / "encoder.pth").part == "without the prefix 'encoder.'"
    torch.save({"encoder.layer.0.weight": torch.ones(2)}, tmp_path / "other.pth")
    assert list(read_weights(tmp_path / "other.pth").state) == ["encoder.layer.0.weight"]


def _zip(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return path


def test_other_programs_files_are_called_what_they_are(tmp_path: Path):
    files = {
        _zip(tmp_path / "augreg.npz", "a.npy", "b.npy"): "is a NumPy archive, as JAX programs write",
        _zip(
            tmp_path / "jit.pt", "jit/constants.pkl", "jit/code/__torch__.py"
        ): "is a TorchScript archive, which holds a program",
        tmp_path / "packed.pth": "is packed with gzip; unpack it with gunzip first",
        tmp_path / "keras.h5": "is an HDF5 file, as Keras writes it",
        tmp_path / "model.safetensors.index.json": "where it is an index of several files, join them into one file",
    }
    (tmp_path / "packed.pth").write_bytes(b"\x1f\x8b\x08rest")
    (tmp_path / "keras.h5").write_bytes(b"\x89HDF\r\n\x1a\nrest")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    for path, words in files.items():
        with pytest.raises(WeightsError, match=re.escape(words)):
            read_weights(path)


def test_a_folder_says_which_file_of_it_to_give(tmp_path: Path):
    with pytest.raises(WeightsError, match=r"is a folder; allowed: a file that ends in \.safetensors"):
        read_weights(tmp_path)
    (tmp_path / "best.pth").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"is a folder; give one of its files: best\.pth$"):
        read_weights(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(WeightsError, match="is a folder; its weights are in several files; join them into one file"):
        read_weights(tmp_path)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(WeightsError, match="as one in timm's hub format it is given as --model "):
        read_weights(tmp_path)


def test_what_is_changed_in_taken_weights_is_said(tmp_path: Path):
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
    other_size = timm.create_model("vit_tiny_patch16_224", num_classes=7, **{**sizes, "img_size": 64})
    torch.save(other_size.state_dict(), tmp_path / "other.pth")
    dense = create_dense(ModelSpec(name="vit_tiny_patch16_224", weights=str(tmp_path / "other.pth"), args=sizes), classes=3)
    assert dense.weights_part == (
        "positions resampled to this image and patch size, its classifier is of other classes, and is replaced"
    )


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["vit.encoder.layer.0.attention.attention.query.weight"], "they have transformers' names"),
        (["encoder.layers.encoder_layer_0.mlp.0.weight"], "they have torchvision's names"),
    ],
)
def test_names_of_other_libraries_are_known(names: list[str], words: str, tmp_path: Path):
    torch.save({name: torch.ones(2) for name in names}, tmp_path / "other.pth")
    spec = ModelSpec(
        name="vit_tiny_patch16_224", weights=str(tmp_path / "other.pth"), args={"img_size": 32, "embed_dim": 48, "depth": 2}
    )
    with pytest.raises(WeightsError, match=words):
        create_dense(spec, classes=3)


def test_averaged_patches_are_an_argument_of_the_model(tmp_path: Path):
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
    state = timm.create_model("vit_tiny_patch16_224", num_classes=3, global_pool="avg", **sizes).state_dict()
    torch.save(state, tmp_path / "averaged.pth")
    spec = ModelSpec(name="vit_tiny_patch16_224", weights=str(tmp_path / "averaged.pth"), args=sizes)
    with pytest.raises(WeightsError, match=r"--model-args global_pool=avg$"):
        create_dense(spec, classes=3)
    assert create_dense(spec.replace(args={**sizes, "global_pool": "avg"}), classes=3).head_fits
