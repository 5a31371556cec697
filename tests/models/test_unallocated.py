"""Models without storage: shapes as they are, nothing filled, and everything else as it was."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from autoslim.models.registry import FAMILIES
from autoslim.models.unallocated import unfilled


def test_a_model_has_its_shapes_and_no_storage():
    with unfilled():
        model = timm.create_model("vit_tiny_patch16_224", depth=2, device="meta")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    allocated = timm.create_model("vit_tiny_patch16_224", depth=2)
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in allocated.state_dict().items()
    }
    assert nn.Linear(2, 2).weight.device.type == "cpu"


@pytest.mark.parametrize("module", [module for family in FAMILIES for module in family.modules])
def test_every_family_is_made_without_storage(module: str):
    name = min(timm.list_models(module=module), key=len)
    with unfilled():
        model = timm.create_model(name, device="meta")
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}


def test_tensors_with_storage_are_filled():
    with unfilled():
        x = torch.zeros(3)
        nn.init.constant_(x, 2.0)
        nn.init.ones_(torch.empty(3, device="meta"))
        nn.init.trunc_normal_(tensor=torch.empty(3, device="meta"))
        x.add_(1)
    assert x.tolist() == [3.0, 3.0, 3.0]


def test_behind_the_context_everything_is_torchs_own():
    before = (torch.Tensor.uniform_, nn.init.ones_)
    with pytest.raises(ZeroDivisionError), unfilled():
        assert (torch.Tensor.uniform_, nn.init.ones_) != before
        raise ZeroDivisionError
    assert (torch.Tensor.uniform_, nn.init.ones_) == before
    assert "uniform_" not in vars(torch.Tensor)
