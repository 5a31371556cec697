"""`autoslim evaluate`: top-1 with labels, and features against the dense model's without."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from helpers.searched_folder import photos
from helpers.tiny import CLASSES, config_of, make_dense, slim
from PIL import Image

from autoslim.export.artifact import save
from autoslim.models import write_folder


@pytest.fixture
def folders(tmp_path):
    dense = make_dense()
    finished = slim("merge", dense)
    write_folder(tmp_path / "dense", dense.module, dense.architecture, preprocessing=dense.preprocessing, classes=CLASSES)
    save(tmp_path / "slimmed", finished.model, config_of("merge", dense, finished))
    (tmp_path / "photos").mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path


FEATURES = ["evaluate", "slimmed", "--data", "photos", "--objective", "features", "--dense", "./dense"]


def test_features_need_no_labels_and_a_probe_has_some(autoslim, folders):
    code, out, err = autoslim(*FEATURES, "--split", "train", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["agreement"]["images"] == 10
    assert found["score"] == pytest.approx((found["agreement"]["pooled"] + found["agreement"]["patches"]) / 2)
    assert found["probe"] is None
    code, out, err = autoslim(*FEATURES, "--probe", "digits")
    assert code == 0, err
    agreement, knn = out.strip().splitlines()
    assert agreement.startswith("agreement 0.")
    assert agreement.endswith("on 1 test images of photos")
    assert knn.startswith("k-NN top-1 (20 neighbours) ")
    assert knn.endswith("on 360 test images of digits")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (FEATURES[:-2], "--objective features needs --dense, the dense model that was slimmed"),
        ([*FEATURES[:4]], "images without labels are for `--objective features` alone"),
        ([*FEATURES[:4], "--objective", "tokens"], "--objective is 'tokens'; allowed: labels, features"),
        ([*FEATURES[:4], "--probe", "digits"], "--dense or --probe is 'digits' with --objective labels"),
        ([*FEATURES, "--split", "all"], "--split is 'all'; allowed: train, validation, test"),
        ([*FEATURES, "--probe", "photos"], "images without labels are for `--objective features` alone"),
    ],
)
def test_what_does_not_fit_is_named(autoslim, folders, arguments, message):
    code, _, err = autoslim(*arguments)
    assert code == 2
    assert message in " ".join(err.split())


def test_an_accuracy_has_its_interval(autoslim, folders):
    photos(folders / "sorted")
    code, out, err = autoslim("evaluate", "slimmed", "--data", "sorted")
    assert code == 0, err
    assert re.fullmatch(r"top-1 \d+\.\d\d% \(\d+\.\d% to \d+\.\d% at 95 %\) on \d+ test images of sorted\n", out)


def test_the_folder_of_a_search_is_answered_with_the_models_in_it(autoslim, folders):
    for label in ("50%", "70%"):
        (folders / "run" / "models" / label).mkdir(parents=True)
        shutil.copy(folders / "slimmed" / "config.json", folders / "run" / "models" / label)
    code, _, err = autoslim("evaluate", "run", "--data", "digits")
    assert code == 2
    assert "run holds a search and no single model; give one of its models: run/models/50%, run/models/70%" in err
    code, _, err = autoslim("evaluate", "photos", "--data", "digits")
    assert "photos holds no slimmed model: photos/config.json does not exist" in err
