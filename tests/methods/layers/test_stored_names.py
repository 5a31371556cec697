"""A model folder's tensors keep their names, and weights load under either."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers.tiny import config_of, images, logits, slimmed

from autoslim.export.artifact import save
from autoslim.methods.layers.stored_names import stored_state_dict

CASES = {
    "sit": "blocks.stages.1.step.fc1.weight",
    "life_regression": "blocks.stages.1.step.regressor.weight",
    "life_regression:threshold": "blocks.stages.1.step.scorer.regressor.weight",
    "patch_slimming": "blocks.stages.0.block.pick.index",
    "dps": "blocks.stages.0.block.pick.scorer.linear.weight",
}


@pytest.mark.parametrize("method", CASES)
def test_a_folder_written_today_has_the_tensor_names_of_format_1(method: str, tmp_path: Path):
    dense, finished = slimmed(method, "deit")
    save(tmp_path, finished.model, config_of(method, dense, finished))
    names = set(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    assert CASES[method] in names
    assert not [name for name in names if "pre_block" in name or "selector" in name]


@pytest.mark.parametrize("method", CASES)
def test_weights_load_under_stored_and_under_present_names(method: str):
    finished = slimmed(method, "deit")[1]
    expected = logits(finished.model, images())
    present = finished.model.state_dict()
    assert present.keys() != stored_state_dict(finished.model).keys()
    for state in (present, stored_state_dict(finished.model)):
        fresh = copy.deepcopy(finished.model)
        for parameter in (*fresh.parameters(), *fresh.buffers()):
            parameter.data.zero_()
        fresh.load_state_dict(state, strict=True)
        assert torch.equal(logits(fresh, images()), expected)


def test_names_that_are_nobodys_are_refused():
    model = copy.deepcopy(slimmed("sit", "deit")[1].model)
    state = {name.replace(".step.", ".phase."): value for name, value in stored_state_dict(model).items()}
    with pytest.raises(RuntimeError, match="phase"):
        model.load_state_dict(state, strict=True)
