"""Features of a slimmed model against the dense model's: agreement, and k-NN with a labelled set."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from helpers.tiny import CLASSES, config_of, images, make_dense, slim
from torch.nn import functional

from autoslim.core.job import DatasetSpec, ModelSpec
from autoslim.core.recipe import TrainingSettings
from autoslim.data import Loader, prepare_dataset
from autoslim.data.dataset import ImageSplit
from autoslim.errors import RequestError, UnsupportedModelError
from autoslim.export.artifact import save
from autoslim.methods.layers.rectangular_block import class_query_last
from autoslim.models import write_folder
from autoslim.training.agreement import Agreement, agreement, cosines
from autoslim.training.device import Precision
from autoslim.training.feature_evaluation import evaluate_features
from autoslim.training.knn import TEMPERATURE, knn_top1, pooled_features, vote

CPU = {"device": torch.device("cpu"), "precision": Precision.FLOAT32}


def loader_of(labels: list[int], *, seed: int = 0, batch_size: int = 4) -> Loader:
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
    split = ImageSplit(np.array(labels), (32, 32), lambda indices: pixels[indices])
    training = TrainingSettings(batch_size=batch_size, augmentation="none")
    return Loader(split, training=training, mean=(0.5,) * 3, std=(0.5,) * 3, image_size=(32, 32), seed=0, train=False)


def test_a_model_agrees_with_itself():
    dense = make_dense().module
    found = agreement(copy.deepcopy(dense), dense, loader_of([0] * 10), **CPU)
    assert found.images == 10
    assert (found.pooled, found.patches, found.score) == pytest.approx((1.0, 1.0, 1.0), abs=1e-6)


def test_agreement_is_the_mean_over_images_of_cosines_at_their_places():
    dense = make_dense()
    slimmed = slim("merge", dense).model
    loader = loader_of([0] * 10)
    found = agreement(slimmed, dense.module, loader, **CPU)
    with torch.no_grad():
        x = torch.cat([batch for batch, _ in loader.epoch(0)])
        own, target = slimmed.forward_features(x, restore_tokens=True), dense.module.forward_features(x)
        patches = functional.cosine_similarity(own[:, 1:], target[:, 1:], dim=-1).mean()
        pooled = functional.cosine_similarity(own[:, 0], target[:, 0], dim=-1).mean()
    assert found.pooled == pytest.approx(float(pooled), abs=1e-5)
    assert found.patches == pytest.approx(float(patches), abs=1e-5)
    assert found.score < 0.99
    assert cosines(slimmed, dense.module, images(5)).shape == (5, 2)


def test_the_score_is_never_below_0():
    assert Agreement(pooled=-0.5, patches=0.1, images=1).score == 0.0
    assert Agreement(pooled=0.5, patches=1.0, images=1).score == 0.75


def test_without_patches_there_is_no_agreement():
    dense = make_dense()
    with pytest.raises(UnsupportedModelError, match="no patch to restore the others from"):
        agreement(class_query_last(copy.deepcopy(dense.module), 1), dense.module, loader_of([0] * 4), **CPU)


def test_neighbours_vote_with_their_cosines():
    known_ND = functional.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.3], [0.0, 1.0], [0.1, 1.0], [0.0, -1.0]]), dim=-1)
    label_N = torch.tensor([0, 0, 1, 1, 2])
    query_QD = functional.normalize(torch.tensor([[1.0, 0.1], [0.1, 0.9], [0.2, -1.0]]), dim=-1)
    assert vote(known_ND, label_N, query_QD, classes=3).tolist() == [0, 1, 2]
    # Two that are a little farther away outvote the nearest: exp(s / T) of each.
    near, far = (torch.tensor([[s, (1 - s * s) ** 0.5]]) for s in (0.99, 0.97))
    assert 2 * np.exp(0.97 / TEMPERATURE) > np.exp(0.99 / TEMPERATURE)
    three = torch.cat((near, far, far))
    labels = torch.tensor([0, 1, 1])
    query = torch.tensor([[1.0, 0.0]])
    assert vote(three, labels, query, classes=2).item() == 1
    assert vote(three, labels, query, classes=2, neighbours=1).item() == 0


def test_knn_is_the_share_of_right_votes():
    dense = make_dense().module
    train = loader_of([number % 3 for number in range(12)])
    # The nearest of an image is itself, with a cosine of 1.
    known_ND, label_N = pooled_features(dense, train, **CPU)
    assert torch.linalg.vector_norm(known_ND, dim=1).allclose(torch.ones(12))
    assert torch.equal(vote(known_ND, label_N, known_ND, classes=3, neighbours=1), label_N)
    test = loader_of([0, 1, 2, 0], seed=1)
    expected = vote(known_ND, label_N, pooled_features(dense, test, **CPU)[0], classes=3) == torch.tensor([0, 1, 2, 0])
    assert knn_top1(dense, train, test, classes=3, **CPU) == pytest.approx(float(expected.double().mean()))


@pytest.fixture
def folders(tmp_path):
    """The folders of a dense and a slimmed model."""
    dense = make_dense()
    finished = slim("merge", dense)
    write_folder(tmp_path / "dense", dense.module, dense.architecture, preprocessing=dense.preprocessing, classes=CLASSES)
    save(tmp_path / "slimmed", finished.model, config_of("merge", dense, finished))
    return tmp_path


def test_folders_are_evaluated_without_labels_and_with_a_probe(folders):
    unlabelled = prepare_dataset(DatasetSpec(source="digits", labelled=False), folders / "cache", seed=0)
    probe = prepare_dataset(DatasetSpec(source="digits", train_limit=60), folders / "cache", seed=0)
    spec = ModelSpec(name=str(folders / "dense"))
    result = evaluate_features(folders / "slimmed", spec, unlabelled, "validation", probe=probe)
    assert result.agreement.images == unlabelled.report.validation.images
    assert 0 < result.agreement.score < 1
    assert result.probe.images == 360
    assert 0.1 < result.probe.slimmed <= 1
    assert evaluate_features(folders / "slimmed", spec, unlabelled, "validation").probe is None


def test_another_dense_model_is_refused(folders):
    other = make_dense("registers")
    write_folder(folders / "other", other.module, other.architecture, preprocessing=other.preprocessing, classes=CLASSES)
    dataset = prepare_dataset(DatasetSpec(source="digits", labelled=False), folders / "cache", seed=0)
    with pytest.raises(
        RequestError, match=r"--dense .*other has prefix_tokens 5, the model that was slimmed 1; allowed: the same"
    ):
        evaluate_features(folders / "slimmed", ModelSpec(name=str(folders / "other")), dataset, "test")
