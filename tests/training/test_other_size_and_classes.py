"""A checkpoint of 10 classes at 32 px, for 20 classes at 64 px, from files to a slimmed model on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import autoslim
from autoslim.core.job import DatasetSpec, ModelSpec
from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe, Step, TrainingSettings
from autoslim.cost import count_flops, predict
from autoslim.data import prepare_dataset
from autoslim.methods import METHODS, solve
from autoslim.models import create_dense, write_folder
from autoslim.training import BaseRequest, TrialContext, prepare_base, run_trial

ARGS = {"patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}


def _flowers(root: Path) -> Path:
    """Twenty classes of noise about a colour of their own, grey and RGBA ones among them."""
    draws = np.random.default_rng(0)
    for split, images in (("train", 12), ("test", 3)):
        for label in range(20):
            folder = root / split / f"class {label:02d}"
            folder.mkdir(parents=True)
            colour = draws.integers(0, 255, 3)
            for index in range(images):
                pixels = np.clip(colour + draws.normal(0, 20, (70, 80, 3)), 0, 255).astype(np.uint8)
                mode = ("RGB", "L", "RGBA")[index % 3]
                Image.fromarray(pixels).convert(mode).save(folder / f"{index}.png")
    return root


def _checkpoint(folder: Path) -> Path:
    spec = ModelSpec(name="deit_tiny_patch16_224", weights="scratch", args=ARGS, image_size=(32, 32))
    dense = create_dense(spec, classes=10)
    write_folder(
        folder, dense.module, dense.architecture, preprocessing=dense.preprocessing, classes=tuple(f"old {i}" for i in range(10))
    )
    return folder


@pytest.mark.slow
def test_another_size_and_other_classes_work_from_files_to_a_loaded_model(tmp_path: Path) -> None:
    checkpoint = _checkpoint(tmp_path / "checkpoint")
    dataset = prepare_dataset(DatasetSpec(source=str(_flowers(tmp_path / "flowers"))), tmp_path / "cache", seed=0)
    model = ModelSpec(name=str(checkpoint), image_size=(64, 64))
    assert not create_dense(model, classes=20).is_ready_for(dataset.classes)
    training = TrainingSettings(epochs=1, batch_size=16, distillation=0.0)
    request = BaseRequest(model=model, weights_digest="", dataset_digest=dataset.digest, training=training, seed=0)
    reports = prepare_base(tmp_path / "base", request, dataset)
    assert [round(report.epoch) for report in reports] == [1]

    context = TrialContext.open(base=tmp_path / "base", dataset=dataset.path)
    shape = context.dense.shape
    assert (shape.image_size, shape.classes, shape.patches) == ((64, 64), 20, 64)
    dense = predict(shape, Plan.dense(shape)).total
    for method in METHODS.values():
        solved = solve(method, shape, Plan.dense(shape), {}, dense // 2)
        recipe = Recipe(
            steps=(Step(method=method.name, knobs=solved.knobs),),
            budget=dense // 2,
            training=training.replace(distillation=0.5),
            seed=0,
        )
        for _ in run_trial(recipe, context, tmp_path / method.name):
            pass
        slimmed = autoslim.load(tmp_path / method.name / "model")
        assert slimmed(torch.zeros(2, 3, 64, 64)).shape == (2, 20)
        assert count_flops(slimmed, 64) <= dense // 2
        assert autoslim.load_config(tmp_path / method.name / "model").classes == dataset.classes
