"""A second head learns the labels of patches while the dense model is trained, and is gone afterwards."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.marks import CI_ONLY
from helpers.tiny import SIZES, images, make_dense
from PIL import Image

from autoslim.core.job import DatasetSpec, ModelSpec
from autoslim.core.plan import Plan
from autoslim.core.recipe import TrainingSettings
from autoslim.cost import predict_params
from autoslim.data import PreparedDataset, prepare_dataset
from autoslim.errors import UnsupportedModelError
from autoslim.models import create_dense
from autoslim.training import BaseRequest, prepare_base
from autoslim.training.token_labeling import attach_patch_head, drop_patch_head, token_labeling_loss

CPU = torch.device("cpu")
TINY = {**SIZES, "patch_size": 8, "depth": 2}


@pytest.fixture(scope="session")
def halves(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """Images of two noisy halves, bright and dark, of which the left one is the class; each patch has the class of its half."""
    folder, source = tmp_path_factory.mktemp("halves"), np.random.default_rng(0)
    rows: dict[str, list[Any]] = {"image": [], "label": [], "patches": []}
    for number in range(80):
        classes = np.array([number % 2, 1 - number % 2]).repeat(4)[None].repeat(8, axis=0)
        pixels = 60 + 140 * classes.repeat(4, 0).repeat(4, 1)[..., None] + source.integers(-50, 50, (32, 32, 3))
        encoded, labels = io.BytesIO(), io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(encoded, "PNG")
        np.save(labels, np.stack([np.full((1, 8, 8), 10.0), classes[None]]).astype(np.float16))
        for name, value in zip(rows, (encoded.getvalue(), number % 2, labels.getvalue()), strict=True):
            rows[name].append(value)
    pq.write_table(pa.table(rows), folder / "all.parquet")
    spec = DatasetSpec(source=str(folder / "all.parquet"), token_labels="patches")
    return prepare_dataset(spec, folder / "cache", seed=0)


def request_of(dataset: PreparedDataset, model: ModelSpec | None = None, **training: Any) -> BaseRequest:
    settings = {"epochs": 4.0, "batch_size": 16, "lr": 3e-3, "distillation": 0.0, "flip": False, "precision": "float32"}
    return BaseRequest(
        model=model or ModelSpec(name="lvvit_s", weights="scratch", args=TINY),
        weights_digest="",
        dataset_digest=dataset.digest,
        training=TrainingSettings(**{**settings, **training}),
        seed=0,
    )


@pytest.mark.parametrize("kind", ["vit", "distilled", "average", "LV-ViT", "relative positions by an MLP"])
def test_the_loss_is_that_of_the_image_and_half_of_that_of_its_patches(kind: str):
    dense = make_dense(kind)
    vit: Any = dense.module
    attach_patch_head(dense, seed=0)
    assert float(vit.companion.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    targets = torch.rand(3, 1 + dense.shape.patches, 10, generator=torch.Generator().manual_seed(1)).softmax(dim=2)
    training = TrainingSettings(label_smoothing=0.2)
    found = token_labeling_loss(vit, images(), targets, training)
    with torch.no_grad():
        tokens = vit.fc_norm(vit.forward_features(images())[:, dense.shape.prefix_tokens :])
        smooth = 0.8 * targets + 0.02
        image = -(smooth[:, 0] * vit(images()).log_softmax(dim=1)).sum(dim=1).mean()
        patches = -(smooth[:, 1:] * vit.companion(tokens).log_softmax(dim=2)).sum(dim=2).mean()
    torch.testing.assert_close(found["patch_loss"], patches)
    torch.testing.assert_close(found["loss"], image + 0.5 * patches)
    drop_patch_head(vit)
    assert not any("companion" in name for name in vit.state_dict())
    drop_patch_head(vit)


def test_models_without_a_token_for_each_patch_are_refused():
    with pytest.raises(UnsupportedModelError, match="stages have grids of their own; leave out --token-labels"):
        attach_patch_head(make_dense("windows"), seed=0)


@pytest.mark.parametrize("mixup", [0.0, pytest.param(0.5, marks=CI_ONLY)])
def test_lvvit_learns_from_labels_of_patches_and_keeps_no_second_head(
    mixup: float, halves: PreparedDataset, drain: Any, tmp_path: Path
):
    reports, facts = drain(prepare_base(tmp_path / "base", request_of(halves, mixup=mixup), halves, device=CPU))
    first, *_, last = (report.metrics["patch_loss"] for report in reports)
    assert last < (1.0 if mixup else 0.85) * first
    dense = create_dense(ModelSpec(name=str(tmp_path / "base")))
    assert dense.is_ready_for(halves.classes)
    assert facts.params == dense.parameters == predict_params(dense.shape, Plan.dense(dense.shape))


@pytest.mark.parametrize("stop", [pytest.param(2, marks=CI_ONLY)])
def test_an_interrupted_training_goes_on_with_its_second_head(stop: int, halves: PreparedDataset, drain: Any, tmp_path: Path):
    request = request_of(halves)
    _, facts = drain(prepare_base(tmp_path / "whole", request, halves, device=CPU))
    run = prepare_base(tmp_path / "stopped", request, halves, device=CPU)
    for _ in range(stop):
        next(run)
    run.close()
    _, resumed = drain(prepare_base(tmp_path / "stopped", request, halves, device=CPU))
    assert resumed == facts
    one, other = (create_dense(ModelSpec(name=str(tmp_path / name))).module.state_dict() for name in ("whole", "stopped"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_model_that_is_not_trained_says_that_the_labels_are_not_used(
    halves: PreparedDataset, drain: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    drain(prepare_base(tmp_path / "base", request_of(halves, epochs=1.0), halves, device=CPU))
    assert "not used" not in caplog.text
    ready = request_of(halves, ModelSpec(name=str(tmp_path / "base")))
    reports, _ = drain(prepare_base(tmp_path / "again", ready, halves, device=CPU))
    assert reports == []
    assert "the token labels are not used" in caplog.text
