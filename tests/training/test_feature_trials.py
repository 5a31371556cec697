"""Trials without labels: the dense model's features are the target, and the score is the agreement with them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.marks import every_method
from helpers.tiny import attached, images, make_dense, slim, solved_knobs

from autoslim.core.job import DatasetSpec, ModelSpec
from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe, TrainingSettings
from autoslim.core.result import Phase
from autoslim.data import prepare_dataset
from autoslim.errors import RequestError, UnsupportedModelError
from autoslim.export.artifact import load, load_config
from autoslim.methods import METHODS
from autoslim.methods.layers.backbone import features
from autoslim.methods.width.gate_gradients import gradient_rms
from autoslim.models import create_dense
from autoslim.training import TrialContext, run_trial
from autoslim.training.batch import LazyDistillationBatch
from autoslim.training.feature_loss import feature_loss


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = DatasetSpec(source="digits", labelled=False, train_limit=220)
    return prepare_dataset(spec, tmp_path_factory.mktemp("unlabelled"), seed=0).path


@pytest.fixture
def context(base: Path, unlabelled: Path) -> TrialContext:
    return TrialContext.open(base=base, dataset=unlabelled, device=torch.device("cpu"))


@pytest.mark.parametrize("method", every_method())
def test_every_method_slims_features(
    method: str, context: TrialContext, make_recipe: Callable[..., Recipe], drain, tmp_path: Path
):
    assert context.dense.shape.classifiers == 0
    recipe = make_recipe(method, share=0.6, epochs=2.0, lr=1e-3)
    reports, outcome = drain(run_trial(recipe, context, tmp_path))
    pruned = next(report.metrics["accuracy"] for report in reports if report.phase is Phase.PRUNE)
    assert 0 < pruned < 1
    assert 0 < outcome.accuracy < 1
    config = load_config(tmp_path / "model")
    assert config.classes == ()
    assert config.accuracy == {"validation/agreement": outcome.accuracy}
    model = load(tmp_path / "model")
    with torch.no_grad():
        # Patches are left to the end, whatever the pooling.
        found = features(model, images(), restore_tokens=True)
        assert found.tokens.shape == (3, context.dense.shape.tokens, context.dense.shape.dim)
        assert torch.equal(model(images()), found.pooled)


@pytest.mark.slow
def test_training_brings_features_closer(context: TrialContext, make_recipe: Callable[..., Recipe], drain, tmp_path: Path):
    recipe = make_recipe("width", share=0.4, epochs=6.0, lr=1e-3)
    reports, outcome = drain(run_trial(recipe, context, tmp_path))
    assert outcome.accuracy > next(report.metrics["accuracy"] for report in reports if report.phase is Phase.PRUNE)
    losses = [report.metrics["loss"] for report in reports if report.phase is Phase.FINETUNE]
    assert losses[-1] < losses[0]


def test_the_loss_is_0_for_the_dense_model_and_felt_everywhere():
    dense = make_dense().module
    assert feature_loss(copy.deepcopy(dense), dense, images()).item() == pytest.approx(0, abs=1e-6)
    student = slim("merge", make_dense()).model.requires_grad_(True)
    loss = feature_loss(student, dense, images())
    loss.backward()
    assert loss.item() > 0.01
    silent = [name for name, p in student.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # The classifier is no part of the features.
    assert silent == ["head.weight", "head.bias"]


def test_a_form_for_training_alone_has_a_loss():
    dense = make_dense()
    student = attached("life_regression", dense, solved_knobs("life_regression", dense.shape))
    assert feature_loss(student, dense.module, images()).item() > 0


def test_with_classes_labels_count_and_without_they_do_not(base: Path):
    for classes, expected in ((None, True), (0, False)):
        dense = create_dense(ModelSpec(name=str(base)), classes=classes).module
        student, settings = slim("merge", make_dense()).model, TrainingSettings()
        one, other = (
            LazyDistillationBatch(student, dense, images(), torch.full((3,), label), settings).label_loss for label in (0, 1)
        )
        assert (one.item() != other.item()) == expected


def test_a_class_query_and_counts_of_each_image_need_a_classifier(context: TrialContext):
    shape = context.dense.shape
    with pytest.raises(RequestError, match="class query needs a classifier; this model's patches are features, too"):
        Plan.dense(shape, class_query=True)
    with pytest.raises(UnsupportedModelError, match="differ from image to image need a classifier"):
        METHODS["dps"].repair(shape, {"adaptive": True})


def test_width_ranks_by_the_change_of_the_features(context: TrialContext):
    worth = gradient_rms(context.student(), [images(), images(seed=2)])
    again = gradient_rms(context.student(), [images(), images(seed=2)])
    for (heads_HK, hidden_F), (heads_again, hidden_again) in zip(worth, again, strict=True):
        assert heads_HK.min() > 0
        assert hidden_F.min() >= 0
        assert hidden_F.max() > 0
        assert torch.equal(heads_HK, heads_again)
        assert torch.equal(hidden_F, hidden_again)
