"""What is said of unreadable images: the command that is printed works as pasted."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
from helpers.tiny import CLASSES, config_of, make_dense, slim
from PIL import Image

from autoslim.export.artifact import save


@pytest.fixture
def photos(tmp_path):
    """Three images a class in each split, of which two training images, and one of the others, cannot be read."""
    dense = make_dense()
    finished = slim("merge", dense)
    save(tmp_path / "slimmed", finished.model, config_of("merge", dense, finished))
    for split in ("train", "val", "test"):
        for number, name in enumerate(CLASSES):
            folder = tmp_path / "my photos" / split / name
            folder.mkdir(parents=True)
            for place in range(3):
                pixels = np.random.default_rng(10 * number + place).integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{place}.png")
        (tmp_path / "my photos" / split / CLASSES[0] / "0.png").write_bytes(b"")
    (tmp_path / "my photos" / "train" / CLASSES[1] / "0.png").write_bytes(b"")
    return tmp_path


def test_the_next_command_works_as_pasted(autoslim, photos):
    code, _, err = autoslim("evaluate", "slimmed", "--data", "my photos", "--unreadable-share", "1")
    assert code == 2
    assert "2 of 30 images of the train split of my photos are unreadable; allowed: 1. Remove or repair them" in err
    command = shlex.split(err.splitlines()[-1].removeprefix("next: "))
    assert command[-2:] == ["--unreadable-share", "2"]
    code, out, err = autoslim(*command[1:])
    assert code == 0, err
    assert "on 29 test images of my photos" in out


@pytest.mark.parametrize("command", [["evaluate", "slimmed"], ["compare", "slimmed", "slimmed"]])
def test_a_share_of_another_form_is_refused(autoslim, tmp_path, command):
    code, _, err = autoslim(*command, "--data", "photos", "--unreadable-share", "some")
    assert (code, "--unreadable-share is 'some'; allowed: a share from 0 to 1, such as 0.05 or 5%" in err) == (2, True)
