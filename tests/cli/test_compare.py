"""`autoslim compare`: two models on the same images."""

from __future__ import annotations

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.tiny import CLASSES, config_of, make_dense, slim
from PIL import Image

from autoslim.data import prepare
from autoslim.export.artifact import save
from autoslim.models import write_folder


@pytest.fixture
def folders(tmp_path):
    dense = make_dense()
    finished = slim("merge", dense)
    write_folder(tmp_path / "dense", dense.module, dense.architecture, preprocessing=dense.preprocessing, classes=CLASSES)
    save(tmp_path / "slimmed", finished.model, config_of("merge", dense, finished))
    for number, name in enumerate(CLASSES):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for place in range(8):
            pixels = np.random.default_rng(10 * number + place).integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{place}.png")
    return tmp_path


def test_the_comparison_is_that_of_two_evaluations(autoslim, folders):
    code, out, err = autoslim("compare", "slimmed", "dense", "--data", "photos", "--split", "train", "--json", "--no-speed")
    assert code == 0, err
    found = json.loads(out)
    code, out, err = autoslim("evaluate", "slimmed", "--data", "photos", "--split", "train", "--json")
    assert code == 0, err
    alone = json.loads(out)
    assert (found["images"], found["first"]["accuracy"]["value"]) == (alone["images"], alone["accuracy"])
    accuracies = [found[place]["accuracy"]["value"] for place in ("first", "second")]
    assert found["difference"]["value"] == pytest.approx(accuracies[0] - accuracies[1])
    assert (found["first_alone"] - found["second_alone"]) / found["images"] == pytest.approx(found["difference"]["value"])
    assert found["first"]["flops"] < found["second"]["flops"]
    assert "speed" not in found
    assert len(found["changed"]) >= found["first_alone"] + found["second_alone"]
    assert all(first != second for _, _, first, second in found["changed"])
    assert all(
        row["first_alone"] - row["second_alone"] == round((row["first"] - row["second"]) * row["images"])
        for row in found["classes"]
    )
    assert sum((row["first"] - row["second"]) * row["images"] for row in found["classes"]) == pytest.approx(
        found["first_alone"] - found["second_alone"]
    )


def test_a_model_is_the_same_as_itself(autoslim, folders):
    code, out, err = autoslim("compare", "dense", "dense", "--data", "photos", "--no-speed")
    assert code == 0, err
    assert "A less B: +0.00 (+0.00 to +0.00) points, paired at 95 %: these images do not tell the models apart" in out
    assert "0 images are right with A alone, 0 with B alone; 0 have different answers" in out


def test_the_text_has_both_models_and_what_differs(autoslim, folders):
    code, out, err = autoslim("compare", "slimmed", "dense", "--data", "photos", "--split", "train")
    assert code == 0, err
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["A", "slimmed"], ["B", "dense"]]
    heads = [re.split(r"  +", line.strip()) for line in lines if line.startswith(("  ", "class ", "image "))]
    assert heads[0][:3] == ["model", "FLOPs", "params"]
    assert re.fullmatch(r"top-1 on \d+ train images, % \(95 %\)", heads[0][3])
    assert heads[0][4:] == ["ms an image"]
    assert ["image", "class", "A", "B"] in heads
    assert ["class", "images", "A, % (95 %)", "B, % (95 %)"] in heads
    for line in lines[1:3]:
        _, _, flops, params, accuracy, ms = re.split(r"  +", line)
        assert re.fullmatch(r"[0-9.]+[KMG]", flops)
        assert re.fullmatch(r"[0-9.]+ M", params)
        assert re.fullmatch(r"[0-9.]+ \([0-9.]+-[0-9.]+\)", accuracy)
        assert float(ms) > 0
    (said,) = [line for line in lines if line.startswith("A is ")]
    assert re.fullmatch(
        r"A is [0-9.]+ times as fast as B \(the median of \d+ pairs, quartiles [0-9.]+ to [0-9.]+"
        r"(; unreliable: other work disturbed the rounds)?\): one image, eager PyTorch on .*",
        said,
    )


def test_columns_are_chosen_as_in_a_search(autoslim, folders):
    """Of Parquet with two columns of labels none is guessed."""
    files = sorted((folders / "photos").rglob("*.png"))
    names = [file.parent.name for file in files]
    images = pa.array([file.read_bytes() for file in files], pa.binary())
    pq.write_table(pa.table({"picture": images, "coarse": ["all"] * len(files), "fine_label": names}), folders / "all.parquet")
    code, out, err = autoslim(
        "compare",
        "dense",
        "dense",
        "--data",
        "all.parquet",
        "--image-column",
        "picture",
        "--label-column",
        "fine_label",
        "--no-speed",
    )
    assert code == 0, err
    assert "0 have different answers" in out
    code, _, err = autoslim("compare", "dense", "dense", "--data", "all.parquet", "--label-column", "nothing")
    assert (code, "no column 'nothing'" in err) == (2, True)


def test_models_of_other_classes_are_refused(autoslim, folders):
    code, _, err = autoslim("compare", "slimmed", "dense", "--data", "digits")
    assert code == 2
    assert "was made for the classes class 0" in err


def test_a_folder_without_a_model_is_named(autoslim, folders):
    code, _, err = autoslim("compare", "slimmed", "photos", "--data", "photos")
    assert code == 2
    assert "photos has no config.json" in err
    code, _, err = autoslim("compare", "slimmed", "nowhere", "--data", "photos")
    assert (code, "nowhere does not exist" in err) == (2, True)


def test_commands_on_the_same_images_prepare_them_once_and_leave_nothing_else(autoslim, folders, monkeypatch):
    monkeypatch.setenv("AUTOSLIM_CACHE", str(folders / "cache"))
    prepared, real = [], prepare._write_new

    def write_new(folder, *given):
        prepared.append(folder)
        return real(folder, *given)

    monkeypatch.setattr(prepare, "_write_new", write_new)
    for command in (
        ["compare", "slimmed", "dense", "--no-speed"],
        ["evaluate", "slimmed"],
        ["export", "slimmed", "--format", "onnx", "--no-speed"],
    ):
        code, _, err = autoslim(*command, "--data", "photos", "--json")
        assert code == 0, err
        assert ("images are taken prepared from" in err) == (command[0] != "compare")
    assert len(prepared) == 1
    assert len([path for path in (folders / "cache" / "prepared").iterdir() if path.is_dir()]) == 1
    code, _, err = autoslim("evaluate", "slimmed", "--data", "photos", "--seed", "1")
    assert code == 0, err
    assert len(prepared) == 2
