"""The forms of a model of features: pooled features and tokens, restored to the whole grid or with their places, for any batch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from helpers.tiny import config_of, enliven, images, make_dense, make_spec, slim
from PIL import Image
from torch import Tensor

from autoslim.core.plan import Plan
from autoslim.errors import RequestError
from autoslim.export import export_features, export_folder
from autoslim.export.artifact import load, save
from autoslim.methods import METHODS
from autoslim.methods.layers.backbone import features
from autoslim.models import create_dense

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def made(folder: Path, method: str, kind: str = "deit", *, classifier: bool = False) -> Path:
    """A slimmed model of features; with `classifier` one that has its classes, too."""
    dense = make_dense(kind)
    if not classifier:
        dense = create_dense(make_spec(kind), classes=0)
        enliven(dense.module)
    finished = slim(method, dense)
    config = config_of(method, dense, finished)
    save(folder, finished.model, config if classifier else config.replace(classes=()))
    return folder


def run(file: Path, batch: Tensor) -> list[Tensor]:
    if file.suffix == ".pt2":
        with torch.no_grad():
            return list(torch.export.load(file).module()(batch))
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(output) for output in session.run(None, {"images": batch.numpy()})]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "suffix"),
    [(name, suffix) for name in METHODS for suffix in ("onnx", "pt2")],
)
def test_exported_features_are_the_models_at_any_batch(method: str, suffix: str, tmp_path: Path):
    folder = made(tmp_path / "model", method)
    model = load(folder)
    for restore in (True, False):
        file = tmp_path / f"{restore}.{suffix}"
        names = export_features(folder, file, restore_tokens=restore)
        assert names == (("pooled", "tokens") if restore else ("pooled", "tokens", "places"))
        for batch in (images(1), images(5, seed=2)):
            with torch.no_grad():
                expected = features(model, batch, restore_tokens=restore)
            found = run(file, batch)
            assert len(found) == len(names)
            for name, own in zip(names, found, strict=True):
                torch.testing.assert_close(own, getattr(expected, name), **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["registers", "rotary positions", "relative positions", "attention pooling"])
def test_families_export_their_features(kind: str, tmp_path: Path):
    folder = made(tmp_path / "model", "width" if kind == "attention pooling" else "life_regression", kind)
    export_features(folder, tmp_path / "features.onnx")
    with torch.no_grad():
        expected = features(load(folder), images(5), restore_tokens=True)
    pooled, tokens = run(tmp_path / "features.onnx", images(5))
    torch.testing.assert_close(pooled, expected.pooled, **CLOSE)
    torch.testing.assert_close(tokens, expected.tokens, **CLOSE)


@pytest.mark.slow
def test_a_model_with_a_classifier_exports_its_features_beside_it(tmp_path: Path):
    folder = made(tmp_path / "model", "merge", classifier=True)
    export_features(folder, tmp_path / "features.onnx")
    with torch.no_grad():
        expected = features(load(folder), images(3), restore_tokens=True)
    torch.testing.assert_close(run(tmp_path / "features.onnx", images(3))[1], expected.tokens, **CLOSE)


def test_another_file_name_is_refused(tmp_path: Path):
    folder = made(tmp_path / "model", "width")
    with pytest.raises(RequestError, match=r"the file is 'features\.bin'; allowed: a name that ends in \.onnx or \.pt2"):
        export_features(folder, tmp_path / "features.bin")


@pytest.mark.slow
def test_the_folder_has_features_in_every_form_and_a_script_that_writes_them(tmp_path: Path):
    folder = made(tmp_path / "model", "merge")
    forms = {form.name: form for form in export_folder(folder, images(4))}
    for name in ("onnx", "pt2"):
        assert forms[name].file, forms[name].reason
        assert forms[name].difference is not None and forms[name].difference < 1e-4
    # A file of features is named after the whole name of its image: those of images with one stem lie beside each other.
    for name in ("photo.png", "photo.jpg"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / name)
    script = subprocess.run(
        [sys.executable, str(folder / "load.py"), "photo.png", "photo.jpg"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    said = "{0}: {0}.features.npz, pooled (48,), patches (4, 4, 48)\n"
    assert script.stdout == said.format("photo.png") + said.format("photo.jpg")
    assert (tmp_path / "photo.jpg.features.npz").is_file()
    config = json.loads((folder / "config.json").read_text())
    with np.load(tmp_path / "photo.png.features.npz") as found:
        assert found["patches"].shape == (*config["shape"]["grid"], config["shape"]["dim"])
        assert np.isfinite(found["patches"]).all()


@pytest.mark.slow
def test_a_narrower_model_of_features_is_timms_too(tmp_path: Path):
    dense = create_dense(make_spec("deit"), classes=0)
    enliven(dense.module)
    finished = slim("width", dense)
    # The dense plan is the one that timm can express however the widths were chosen.
    config = config_of("width", dense, finished).replace(classes=())
    config = config.replace(plan=Plan.dense(dense.shape))
    torch.manual_seed(0)
    model = config.build()
    enliven(model)
    save(tmp_path / "model", model, config)
    forms = {form.name: form for form in export_folder(tmp_path / "model", images(4))}
    assert forms["timm"].file, forms["timm"].reason
    assert forms["timm"].difference is not None and forms["timm"].difference < 1e-4
