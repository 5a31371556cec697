"""Models without storage: shapes as they are, nothing filled, and everything else as it was."""

from __future__ import annotations

import timm
import torch
from torch import nn

from autoslim.models.unallocated import Unallocated


def test_a_model_has_its_shapes_and_no_storage():
    with Unallocated():
        model = timm.create_model("vit_tiny_patch16_224", depth=2)
        assert torch.get_default_device() == torch.device("meta")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    allocated = timm.create_model("vit_tiny_patch16_224", depth=2)
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in allocated.state_dict().items()
    }
    assert nn.Linear(2, 2).weight.device.type == "cpu"


def test_tensors_with_storage_are_filled():
    with Unallocated():
        x = torch.zeros(3, device="cpu")
        nn.init.constant_(x, 2.0)
        nn.init.ones_(torch.empty(3))
        x.add_(1)
    assert x.tolist() == [3.0, 3.0, 3.0]
