"""A teacher that is another model than the student's dense model: its logits are the soft labels, the tokens stay the dense model's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import make_dense
from torch import nn

from autoslim.core.recipe import Recipe, TrainingSettings
from autoslim.data import PreparedDataset
from autoslim.errors import RequestError
from autoslim.methods.base import logits_of
from autoslim.models import OtherTeacher, check_teacher
from autoslim.models.architecture import Preprocessing, write_folder
from autoslim.training import TrialContext, run_trial
from autoslim.training.batch import LazyDistillationBatch

CPU = torch.device("cpu")
IMAGES_B3HW = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
STUDENT = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), crop_pct=1.0)
OWN = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop_pct=0.9)


def normalised(images_B3HW: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    return (images_B3HW - mean) / std


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, digits: PreparedDataset) -> Path:
    """A deeper dense model for the same classes."""
    dense = make_dense("deit", depth=5)
    folder = tmp_path_factory.mktemp("teacher") / "model"
    folder.mkdir()
    write_folder(folder, dense.module, dense.architecture, preprocessing=OWN, classes=digits.classes)
    return folder


@pytest.fixture
def taught(base: Path, digits: PreparedDataset, other: Path) -> TrialContext:
    return TrialContext.open(base=base, dataset=digits.path, device=CPU, teacher=other)


def test_another_teacher_sees_the_images_in_its_own_normalisation() -> None:
    dense = make_dense()
    teacher = OtherTeacher(dense.module, student=STUDENT, own=OWN)
    seen = teacher(normalised(IMAGES_B3HW, STUDENT))
    assert torch.allclose(seen, dense.module(normalised(IMAGES_B3HW, OWN)), atol=1e-5)


def test_a_teacher_of_another_image_size_is_refused() -> None:
    small, large = make_dense().shape, make_dense(img_size=64).shape
    check_teacher("t", small, {"a": small})
    with pytest.raises(RequestError, match="--teacher t is for images of 64x64, but the model b is for 32x32"):
        check_teacher("t", large, {"b": small})


def test_soft_labels_are_the_other_models_and_tokens_the_dense_models(taught: TrialContext, context: TrialContext) -> None:
    images_B3HW = torch.randn(4, 3, *taught.dense.shape.image_size, generator=torch.Generator().manual_seed(1))
    labels = torch.zeros(4, dtype=torch.long)

    def batch_of(trial_context: TrialContext) -> LazyDistillationBatch:
        return trial_context.batch(trial_context.student(), images_B3HW, labels, TrainingSettings())

    own, batch = batch_of(context), batch_of(taught)
    # The tokens first: their pass gives logits as well, which must not become the soft labels.
    tokens = batch.teacher_tokens
    assert all(torch.equal(one, two) for one, two in zip(tokens, own.teacher_tokens, strict=True))
    assert torch.equal(batch.teacher_logits_BC, taught.teacher_logits(images_B3HW))
    assert torch.equal(own.teacher_logits_BC, logits_of(context.teacher(images_B3HW)).float())
    assert not torch.allclose(batch.teacher_logits_BC, own.teacher_logits_BC, atol=1e-3)


def test_shared_results_of_two_teachers_are_two(taught: TrialContext, context: TrialContext) -> None:
    assert taught.base_digest != context.base_digest
    assert taught.base_digest.startswith(context.base_digest)


def test_nothing_of_a_teacher_is_trained_and_all_of_it_computes_in_the_trials_precision(taught: TrialContext) -> None:
    assert isinstance(taught.other_teacher, nn.Module)
    assert not any(parameter.requires_grad for parameter in taught.other_teacher.parameters())
    assert taught.frozen_models == (taught.teacher, taught.other_teacher)


@pytest.mark.parametrize("method", ["sit", "dps"])
def test_a_method_that_reads_the_dense_models_tokens_is_trained_with_a_teacher_of_another_depth(
    taught: TrialContext, tmp_path: Path, make_recipe: Callable[..., Recipe], drain: Callable[..., Any], method: str
) -> None:
    recipe = make_recipe(method, epochs=1.0)
    _, outcome = drain(run_trial(recipe, taught, tmp_path))
    assert outcome.flops <= recipe.budget
    assert [step.method for step in outcome.recipe.steps] == [method]


@pytest.mark.slow
@pytest.mark.short
def test_the_teacher_changes_what_is_trained(
    taught: TrialContext, context: TrialContext, tmp_path: Path, make_recipe: Callable[..., Recipe], drain: Callable[..., Any]
) -> None:
    finals = {}
    for name, trial_context in (("own", context), ("again", context), ("other", taught)):
        drain(run_trial(make_recipe("merge", epochs=1.0), trial_context, tmp_path / name))
        finals[name] = (tmp_path / name / "model" / "model.safetensors").read_bytes()
    assert finals["own"] == finals["again"] != finals["other"]
