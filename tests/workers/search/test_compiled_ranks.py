"""`--compile` with several GPUs a trial is refused before the images are read where what ranks draw together could not be compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.sample_search import make_job

from autoslim.core.job import DatasetSpec, ModelSpec, Resources, SearchJob
from autoslim.core.recipe import TrainingSettings
from autoslim.errors import DatasetError, RequestError
from workers.search.prepare import prepare

TINY = {"patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2}
NOISY = "methods: {dps: {learn_from: [impact, task]}}"


def job_of(folder: Path, *, gpus: float = 2.0, compiled: bool = True, space: str = "smoke", **model: Any) -> SearchJob:
    """Its images are nowhere, which is the next thing to be found."""
    return make_job(
        str(folder / "out"),
        model=ModelSpec(name="deit_tiny_patch16_224", weights="scratch", args={**TINY, **model}, image_size=(16, 16)),
        dataset=DatasetSpec(source=str(folder / "nowhere")),
        training=TrainingSettings(compile=compiled),
        resources=Resources(cpu=2.0, gpu=gpus),
        space=space,
    )


def space_of(folder: Path, text: str) -> str:
    (folder / "space.yaml").write_text(text)
    return str(folder / "space.yaml")


@pytest.mark.parametrize("dropped", [{"drop_path_rate": 0.1}, {"proj_drop_rate": 0.1}])
def test_a_model_with_random_drops_is_refused(tmp_path: Path, dropped: dict[str, float]) -> None:
    with pytest.raises(RequestError) as found:
        prepare(job_of(tmp_path, **dropped), tmp_path / "cache")
    assert str(found.value) == (
        "--compile is given, 2 GPUs train a trial, and deit_tiny_patch16_224 has dropout, stochastic depth or batch norms: what is drawn "
        "for the whole batch is not in a compiled graph; allowed: several GPUs or --compile; leave --compile out, or give a trial one GPU "
        "(--resources gpu=1)"
    )


def test_a_space_whose_recipes_may_draw_noise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"^--compile is given, 2 GPUs train a trial, and dps may draw noise"):
        prepare(job_of(tmp_path, space=space_of(tmp_path, NOISY)), tmp_path / "cache")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"drop_path_rate": 0.1, "gpus": 1.0},
        {"drop_path_rate": 0.1, "compiled": False},
        {"space": "methods: {dps: {learn_from: [impact, task], noise: 0.0}}"},
        # Without an effect, whatever its range.
        {"space": "methods: {dps: {learn_from: impact}}"},
        {"space": NOISY, "gpus": 0.5},
    ],
)
def test_whatever_can_be_compiled_is_not(tmp_path: Path, changes: dict[str, Any]) -> None:
    if "space" in changes:
        changes = {**changes, "space": space_of(tmp_path, changes["space"])}
    with pytest.raises(DatasetError, match="nowhere"):
        prepare(job_of(tmp_path, **changes), tmp_path / "cache")
