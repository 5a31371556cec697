"""`--objective features` from the command line: images without labels in, a model of features out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny import CLASSES, make_dense
from PIL import Image

from autoslim.models import write_folder
from autoslim.training.feature_evaluation import evaluate_features


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """`photos` of any size, at any depth, and the dense model `dense`, which has a classifier of its own."""
    dense = make_dense()
    write_folder(tmp_path / "dense", dense.module, dense.architecture, preprocessing=dense.preprocessing, classes=CLASSES)
    for number in range(60):
        folder = tmp_path / "photos" / ("a" if number % 2 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path


MODEL = ["--model", "./dense", "--flops", "60%"]
FEATURES = [*MODEL, "--data", "photos", "--objective", "features"]
SHORT = ["--epochs", "1", "--batch-size", "16", "--speed", "none"]


@pytest.mark.slow
@pytest.mark.short
def test_a_plan_for_features_has_no_classes_and_trains_no_dense_model(autoslim, photos: Path):
    code, out, err = autoslim("plan", *FEATURES, "--probe", "digits", "--space", "smoke", "--resources", "cpu=1", "--json")
    assert code == 0, err
    plan = json.loads(out)
    assert (plan["classes"], plan["objective"], plan["score"], plan["adapts_dense_model"]) == (0, "features", "agreement", False)
    assert plan["parts"]["dense model"] == 0
    code, out, err = autoslim("flops", "./dense", "--classes", "0", "--json")
    assert code == 0, err
    assert json.loads(out)["flops"] == plan["dense_flops"]


@pytest.mark.slow
@pytest.mark.short
def test_a_plan_says_what_its_score_is(autoslim, photos: Path):
    code, out, err = autoslim("plan", *FEATURES, "--probe", "digits", "--space", "smoke", "--resources", "cpu=1")
    assert code == 0, err
    assert "features without a classifier" in out
    assert "Score     agreement is the mean cosine to the dense model's features" in out
    assert re.search(r"Probe     [\d,]+ train and 360 test images of 10 classes, for k-NN top-1\n", out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", *MODEL, "--data", "./photos/a"], "images without labels are for `--objective features` alone"),
        (["slim", "--method", "width", *FEATURES, "--from-scratch"], "--objective is 'features' with random weights"),
        (["slim", "--method", "width", *FEATURES, "--adapt"], "--adapt is true, but there are no labels"),
        (["slim", "--method", "width", *FEATURES, "--class-query"], "--class-query is true, but patches are features"),
        (["slim", "--method", "width", *FEATURES, "--distillation", "0.5"], "--distillation is 0.5, which needs labels"),
        (["slim", "--method", "dps", "--knob", "adaptive=true", *FEATURES], "need a classifier; this model's patches are features"),
        (["slim", "--method", "width", *MODEL, "--data", "digits", "--probe", "digits"], "--probe is 'digits' with objective 'labels'"),
        (["slim", "--method", "width", *FEATURES, "--probe", "./photos/a"], "has no class folders"),
    ],
)  # fmt: skip
def test_what_needs_labels_is_refused_with_its_flag(autoslim, photos: Path, arguments: list[str], message: str):
    code, _, err = autoslim(*arguments)
    assert code == 2, err
    assert message in " ".join(err.split())


SMALL = ["--model-args", "patch_size=8,embed_dim=48,depth=4,num_heads=3", "--image-size", "32"]


@pytest.mark.slow
@pytest.mark.parametrize("classes", [0, 10])
def test_a_model_without_a_classifier_costs_the_same_in_flops_and_in_a_plan(autoslim, tmp_path: Path, classes: int):
    """timm builds DINOv2 without a classifier: features are slimmed as they are, and labels get a classifier of their classes."""
    from autoslim.core.job import ModelSpec
    from autoslim.models import create_dense

    name = "vit_small_patch14_dinov2"
    args = {"patch_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 3, "img_size": 32}
    dense = create_dense(ModelSpec(name=name, weights="scratch", args=args))
    assert dense.shape.classes == 0
    write_folder(tmp_path / "dino", dense.module, dense.architecture, preprocessing=dense.preprocessing, classes=())
    code, out, err = autoslim("flops", name, *SMALL, "--classes", str(classes), "--json")
    assert code == 0, err
    flops = json.loads(out)["flops"]
    objective = "labels" if classes else "features"
    plan = ["plan", "--model", "./dino", "--data", "digits", "--flops", "60%", "--space", "smoke", "--resources", "cpu=1"]
    code, out, err = autoslim(*plan, "--objective", objective, "--json")
    assert code == 0, err
    assert (json.loads(out)["dense_flops"], json.loads(out)["classes"]) == (flops, classes)
    code, _, err = autoslim(
        "slim", "--method", "dps", "--knob", "adaptive=true", *plan[1:7], "--objective", objective, "--flops", "1K"
    )
    assert ("need a classifier" in err) is (classes == 0), err


@pytest.mark.slow
def test_a_model_is_slimmed_for_its_features_and_handed_over(autoslim, photos: Path):
    import autoslim as package
    from autoslim.core.job import DatasetSpec, ModelSpec
    from autoslim.data import prepare_dataset
    from autoslim.export.artifact import load_config

    command = ["slim", "--method", "merge", *FEATURES, *SHORT, "--probe", "digits", "--output", "out"]
    code, out, err = autoslim(*command)
    assert code == 0, err
    assert "accura" not in out + err
    assert "validation agreement" in out
    assert "Probe      k-NN top-1 (20 neighbours)" in out
    folder = photos / "out"
    config, summary = load_config(folder), json.loads((folder / "summary.json").read_text())
    assert (config.classes, summary["score"], summary["dense_test_accuracy"]) == ((), "agreement", 1.0)
    assert package.count_flops(package.load(folder), (32, 32)) == config.flops.fvcore <= config.flops.budget
    spec = DatasetSpec(source="photos", labelled=False)
    found = evaluate_features(folder, ModelSpec(name="./dense"), prepare_dataset(spec, photos / "cache", seed=0), "test")
    assert found.agreement.score == pytest.approx(summary["test_accuracy"], abs=1e-4)
    assert config.accuracy["test/agreement"] == summary["test_accuracy"]
    assert (config.accuracy["probe/dense"], config.accuracy["probe/slimmed"]) == (
        summary["probe"]["dense"],
        summary["probe"]["slimmed"],
    )
    assert {form.name for form in config.forms if form.file} >= {"onnx", "pt2"}
    assert {"load.py", "picture.png", "README.md", "SHA256SUMS"} <= {path.name for path in folder.iterdir()}
    # The same command again finds it, and other commands take the folder.
    assert autoslim(*command)[0] == 0
    code, _, err = autoslim("evaluate", "out", "--data", "digits")
    assert code == 2
    assert "holds a model of features, which has no classes; allowed: --objective features --dense MODEL" in err
    code, out, err = autoslim("visualize", "out", "--data", "photos", "--images", "3")
    assert code == 0, err


@pytest.mark.slow
def test_features_within_a_latency(autoslim, photos: Path):
    command = ["slim", "--method", "width", *FEATURES, *SHORT, "--latency", "60s@2", "--output", "out", "--json"]
    code, out, err = autoslim(*command)
    assert code == 0, err
    assert json.loads(out)["latency"]["timed"]["ms"] < 60_000
