"""`autoslim export`: forms are made in the model's folder, judged on its test images, and written into its configuration and card."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers.tiny import CLASSES, config_of, make_dense, slim
from PIL import Image

from autoslim.cli.export import render
from autoslim.core.speed import SpeedReport, Timing
from autoslim.export.artifact import FormReport, load_config, save
from autoslim.report.export_forms import Exported

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def folder(tmp_path):
    dense = make_dense()
    finished = slim("width", dense)
    save(tmp_path / "slimmed", finished.model, config_of("width", dense, finished))
    for number, name in enumerate(CLASSES):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for place in range(8):
            pixels = np.random.default_rng(10 * number + place).integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{place}.png")
    (tmp_path / "slimmed" / "README.md").write_text("# A card\n\n## Forms\n\nold\n\n## How it was made\n\nwith care\n")
    return tmp_path / "slimmed"


@pytest.mark.slow
def test_forms_are_made_judged_and_described(autoslim, folder):
    code, out, err = autoslim("export", "slimmed", "--format", "onnx,onnx-int8", "--data", "photos", "--json")
    assert code == 0, err
    found = json.loads(out)
    forms = {form["name"]: form for form in found["forms"]}
    assert list(forms) == ["onnx", "onnx-int8"]
    assert forms["onnx"]["accuracy"] == found["accuracy"]
    assert 100 * (found["accuracy"] - forms["onnx-int8"]["accuracy"]) == pytest.approx(forms["onnx-int8"]["drop"])
    assert {(timing["mode"], timing["batch"]) for timing in found["speed"]["timings"]} >= {("onnx", 1), ("onnx-int8", 1)}
    config = load_config(folder)
    assert [form.to_dict() for form in config.forms] == found["forms"]
    assert config.form_speed is not None and config.form_speed.to_dict() == found["speed"]
    card = (folder / "README.md").read_text()
    assert card.startswith("# A card\n\n## Forms\n\n| file |") and card.endswith("## How it was made\n\nwith care\n")
    assert "old" not in card and "| `model.int8.onnx` |" in card
    names = {path.name for path in folder.iterdir()}
    assert names == {"README.md", "SHA256SUMS", "config.json", "load.py", "model.int8.onnx", "model.onnx", "model.safetensors"}
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=False).returncode == 0


@pytest.mark.slow
def test_forms_that_are_there_stay_and_a_form_is_made_again(autoslim, folder):
    for names in ("onnx", "pt2", "onnx"):
        code, out, err = autoslim("export", "slimmed", "--format", names, "--data", "photos", "--no-speed")
        assert code == 0, err
        assert f"model.{names}" in out and "points below the weights" in out
    assert [form.name for form in load_config(folder).forms] == ["onnx", "pt2"]
    assert (folder / "load.py").is_file() and (folder / "model.pt2").is_file()


@pytest.mark.slow
def test_a_form_that_cannot_be_made_is_told_and_the_others_are_made(autoslim, folder):
    code, out, err = autoslim("export", "slimmed", "--format", "timm,onnx", "--data", "photos", "--no-speed")
    assert code == 0, err
    assert "not made: timm, because timm" in out
    assert (folder / "model.onnx").is_file() and not (folder / "timm").exists()
    code, _, err = autoslim("export", "slimmed", "--format", "timm", "--data", "photos", "--no-speed")
    assert (code, "none of the forms could be made: timm: timm" in err) == (1, True)


@pytest.mark.slow
def test_other_test_images_than_the_cards_are_refused(autoslim, folder):
    config = load_config(folder)
    save_config = config.replace(accuracy={"test/slimmed": 0.99}, images={"test": 5000})
    (folder / "config.json").write_text(save_config.to_json())
    code, _, err = autoslim("export", "slimmed", "--format", "onnx", "--data", "photos")
    assert code == 2
    assert "the card says 99.00% of 5,000. Give the data set that the model was made with, and its --seed" in " ".join(
        err.split()
    )
    assert not (folder / "model.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "tflite"], "--format is 'tflite'; allowed, separated by commas: onnx, pt2, timm, openvino, onnx-int8"),
        (["--format", ""], "--format is ''; allowed, separated by commas: onnx"),
        (["--format", "onnx", "--max-form-drop", "-1"], "--max-form-drop is -1; allowed: 0 to 100, points of top-1"),
        (["--format", "onnx", "--max-form-drop", "nan"], "--max-form-drop is nan; allowed: 0 to 100"),
    ],
)
def test_what_is_not_allowed_is_named(autoslim, folder, arguments, message):
    code, _, err = autoslim("export", "slimmed", "--data", "photos", *arguments)
    assert code == 2
    assert message in " ".join(err.split())
    assert not list(folder.glob("model.o*"))


def test_a_runtime_that_is_not_installed_is_named_with_its_extra(autoslim, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    code, _, err = autoslim("export", "slimmed", "--data", "photos", "--format", "onnx,openvino")
    assert code == 2
    assert "needs the package openvino, which is not installed; run: pip install 'autoslim[openvino]'" in " ".join(err.split())


def test_data_of_other_classes_are_refused(autoslim, folder):
    code, _, err = autoslim("export", "slimmed", "--format", "onnx", "--data", "digits")
    assert code == 2
    assert "the model was made for class 0" in " ".join(err.split())


@pytest.mark.parametrize("allowed", [0.5, 2.0])
def test_the_output_warns_of_what_loses_too_much(allowed):
    onnx = FormReport(name="onnx", file="model.onnx", accuracy=0.7, drop=0.0, difference=0.0)
    int8 = FormReport(
        name="onnx-int8",
        file="model.int8.onnx",
        accuracy=0.69,
        drop=1.0,
        allowed_drop=allowed,
        difference=0.1,
        made="all products",
    )
    timing = Timing(mode="onnx", device="cpu", batch=1, dense_ms=2.0, slimmed_ms=1.0, speedup=2.0, low=1.9, high=2.1, rounds=9)
    text = render(
        Exported(
            folder="m",
            images=1000,
            accuracy=0.7,
            forms=(onnx, FormReport(name="pt2", reason="it cannot"), int8),
            speed=SpeedReport(hardware="a chip", threads=1, timings=(timing,)),
        )
    )
    warning = "warning: model.int8.onnx loses 1.00 points of top-1 on the test images (allowed: 0.5)"
    assert (warning in text) == (allowed == 0.5)
    assert "top-1 on 1,000 test images, % (95 %)" in text
    assert "model.safetensors  70.00 (67.1-72.8)" in text
    assert "ms at batch 1 (times as fast as dense)" in text
    assert "  1 (2.00)\n" in text
    assert "unreliable" not in text
    assert "not made: pt2, because it cannot" in text


@pytest.mark.parametrize("names", [pytest.param("openvino", marks=pytest.mark.slow)])
def test_openvino_is_judged_by_openvino(autoslim, folder, names):
    pytest.importorskip("openvino")
    code, out, err = autoslim("export", "slimmed", "--format", names, "--data", "photos", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["forms"][0]["accuracy"] == found["accuracy"]
    assert {path.name for path in (folder / "openvino").iterdir()} == {"model.xml", "model.bin"}
    assert {timing["mode"] for timing in found["speed"]["timings"]} == {"openvino"}
