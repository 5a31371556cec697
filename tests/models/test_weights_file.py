"""Files of weights as training scripts, hubs and failed downloads leave them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
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
    '{"metadata": {}, "weight_map": {}}': "is a JSON file, not weights; an index of several files is not read",
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
