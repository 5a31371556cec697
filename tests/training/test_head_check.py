"""A classifier that fits by its size alone is judged on the validation images before it is taken as one of the data's classes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from helpers.marks import CI_ONLY
from torch import Tensor

from autoslim.core.job import DatasetSpec, ModelSpec
from autoslim.core.recipe import TrainingSettings
from autoslim.core.result import BaseFacts
from autoslim.data import PreparedDataset, prepare_dataset
from autoslim.errors import RequestError
from autoslim.models import create_dense
from autoslim.training import BaseRequest, prepare_base
from autoslim.training.head_check import HeadCheck

pytestmark = CI_ONLY

SIZES: dict[str, Any] = {"patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}
ONCE = TrainingSettings(epochs=1.0, lr=2e-3, batch_size=32, precision="float32", augmentation="none", distillation=0.0)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return prepare_dataset(DatasetSpec(source="digits"), tmp_path_factory.mktemp("digits"), seed=0)


@pytest.fixture(scope="module")
def trained(digits: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Weights of a model that tells the digits apart."""
    folder = tmp_path_factory.mktemp("trained") / "base"
    spec = ModelSpec(name="vit_tiny_patch16_224", weights="scratch", args=SIZES, image_size=(32, 32))
    prepared(folder, spec, digits, ONCE.replace(epochs=6.0))
    return safetensors.torch.load_file(folder / "model.safetensors")


def prepared(
    folder: Path, model: ModelSpec, digits: PreparedDataset, training: TrainingSettings, adapt: bool | None = None
) -> tuple[BaseFacts, int]:
    """The facts, and the epochs that it took."""
    request = BaseRequest(model=model, weights_digest="", dataset_digest=digits.digest, training=training, seed=0, adapt=adapt)
    work, epochs = prepare_base(folder, request, digits, device=torch.device("cpu")), 0
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value, epochs
        epochs += 1


def spec_of(state: dict[str, Tensor], path: Path) -> ModelSpec:
    safetensors.torch.save_file(state, path)
    return ModelSpec(name="vit_tiny_patch16_224", weights=str(path), args=SIZES, image_size=(32, 32))


def of_other_classes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As a file of weights has them whose ten classes are others: the same features, each class with the output of the next."""
    return {name: value.roll(1, dims=0).contiguous() if name.startswith("head.") else value for name, value in state.items()}


def test_a_classifier_of_these_classes_is_taken(digits: PreparedDataset, trained: dict[str, Tensor], tmp_path: Path):
    facts, epochs = prepared(tmp_path / "base", spec_of(trained, tmp_path / "w.safetensors"), digits, ONCE)
    assert epochs == 0
    assert "is taken as trained for these classes" in facts.head_check
    assert facts.dense_accuracy > 0.5


def test_a_classifier_of_other_classes_is_trained(digits: PreparedDataset, trained: dict[str, Tensor], tmp_path: Path):
    other = spec_of(of_other_classes(trained), tmp_path / "w.safetensors")
    facts, epochs = prepared(tmp_path / "base", other, digits, ONCE)
    assert epochs == 1
    assert "was trained for others" in facts.head_check
    # An epoch does not make it good, but better than a guess.
    assert facts.dense_accuracy > facts.chance + 0.05


@pytest.mark.parametrize("adapt", [True, False])
def test_the_user_decides(adapt: bool, digits: PreparedDataset, trained: dict[str, Tensor], tmp_path: Path):
    state = trained if adapt else of_other_classes(trained)
    facts, epochs = prepared(tmp_path / "base", spec_of(state, tmp_path / "w.safetensors"), digits, ONCE, adapt)
    assert epochs == (1 if adapt else 0)
    assert facts.head_check == ""
    assert (facts.dense_accuracy > 0.5) is adapt


def test_a_model_that_cannot_be_used_untrained_is_refused():
    dense = create_dense(ModelSpec(name="vit_tiny_patch16_224", weights="scratch", args=SIZES, image_size=(32, 32)), classes=10)
    dense.check_adapt("vit", None)
    dense.check_adapt("vit", True)
    with pytest.raises(RequestError, match="--no-adapt, but model vit cannot be used without training: it has random weights"):
        dense.check_adapt("vit", False)


@pytest.mark.parametrize(
    ("own", "probe", "fits"),
    [(0.115, 0.10, False), (0.5, 0.8, False), (0.79, 0.8, True), (0.9, 0.8, True), (0.14, 0.3, False)],
)
def test_a_classifier_has_to_beat_chance_and_keep_up_with_a_probe(own: float, probe: float, fits: bool):
    assert HeadCheck(own=own, probe=probe, chance=0.1, images=1000).fits is fits


def test_a_new_classifier_is_refused_too():
    spec = ModelSpec(name="vit_tiny_patch16_224", weights="scratch", args=SIZES, image_size=(32, 32))
    dense = dataclasses.replace(create_dense(spec, classes=10), trained=True, head_fits=False)
    with pytest.raises(RequestError, match="its classifier is a new one; leave out --no-adapt"):
        dense.check_adapt("vit", False)
