"""Weights may be read by whoever may read the files beside them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import safetensors.torch
import torch

from autoslim.models.tensor_file import write_tensors


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_they_have_the_rights_of_their_neighbours(umask: int, tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    for value in (1.0, 2.0):
        write_tensors(tmp_path / "model.safetensors", {"weight": torch.full((2,), value)})
        rights = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        assert rights == {0o666 & ~umask}
        assert safetensors.torch.load_file(tmp_path / "model.safetensors")["weight"].tolist() == [value, value]
