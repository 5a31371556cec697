"""`autoslim plan` on every file under `search_spaces/papers`, with the digits in the place of ImageNet and random weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoslim.config import read_yaml

FOLDER = Path(__file__).parents[2] / "search_spaces" / "papers"


# A plan times steps of at least four images, which take minutes with the largest model on two cores without a GPU.
@pytest.mark.timeout(1800)
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.yaml")))
def test_a_paper_can_be_planned_with_one_command(name: str, autoslim):
    spec = read_yaml(FOLDER / name)
    code, text, errors = autoslim("plan", str(FOLDER / name), "--data", "digits", "--weights", "scratch", "--train-limit", "60")
    assert code == 0, errors
    assert f"{len(spec.flops)} of {spec.epochs:g} epochs" in text
    assert all(flops in text for flops in spec.flops)
